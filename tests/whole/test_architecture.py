"""The order of rooms holds, and what checks it would notice if it did not."""

import importlib
from pathlib import Path

import pytest

from tests import architecture

FILES = architecture.sources(architecture.root())


def test_imports_run_downwards_only():
    assert architecture.misplaced(FILES) == []


def test_the_page_shows_the_table_that_holds():
    page = (architecture.root().parent / "docs" / "architecture.md").read_text()
    assert f"```{architecture.ORDER}```" in page
    for room in architecture.floors():
        assert room in page


def test_no_modules_import_each_other_in_a_circle():
    assert architecture.circles(FILES) == []


def test_passes_know_only_what_passes_are():
    own = {
        name: targets for name, targets in architecture.imports(FILES).items() if name.startswith("upscale_fx.passes.")
    }
    assert len(own) > 10
    for name, targets in own.items():
        among = {target for target in targets if architecture.room_of(target) == "passes"}
        assert among <= {"upscale_fx.passes.base"}, name


def test_nothing_lies_flat_but_the_face():
    flat = {path.stem for name, path in FILES.items() if path.parent == architecture.root()}
    assert flat == {"__init__", "__main__", "api", "compat", "errors", "criteria", "rules", "memory"}


def test_files_functions_and_folders_are_small():
    assert architecture.too_large(FILES) == []


def test_every_folder_says_what_it_is():
    for name, path in FILES.items():
        if path.name == "__init__.py":
            assert path.read_text().startswith('"""'), name


def test_names_of_modules_in_strings_exist():
    """A path in a string outlives a move silently: a mock that replaces nothing, an import taken for a missing one."""
    tests = [path for path in (architecture.root().parent / "tests").rglob("*.py") if path != Path(__file__)]
    missing = []
    for path in [*FILES.values(), *tests]:
        for line, name in architecture.names_in_strings(path):
            if not exists(name):
                missing.append(f"{path}:{line}: {name}")
    assert missing == []


def exists(name):
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


@pytest.fixture
def package(tmp_path):
    """A package of two rooms, high above low, with a module each."""
    root = tmp_path / "upscale_fx"
    for room in ("high", "low"):
        (root / room).mkdir(parents=True)
        (root / room / "__init__.py").write_text("")
    (root / "__init__.py").write_text("")
    (root / "high" / "first.py").write_text("from upscale_fx.low import second\n")
    (root / "low" / "second.py").write_text("")
    return root


ORDER = "__init__ > high > low"


def test_a_sound_package_passes(package):
    files = architecture.sources(package)
    assert architecture.misplaced(files, ORDER) == []
    assert architecture.circles(files) == []
    assert architecture.too_large(files) == []


@pytest.mark.parametrize(
    "line",
    [
        "from upscale_fx.high import first",
        "from upscale_fx.high.first import anything",
        "import upscale_fx.high.first as other",
        "from ..high import first",
        "def lazy():\n    from upscale_fx.high.first import anything",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from upscale_fx.high import first",
    ],
)
def test_an_import_that_runs_upwards_is_noticed(package, line):
    (package / "low" / "second.py").write_text(line + "\n")
    files = architecture.sources(package)
    assert any("upscale_fx.low.second imports upscale_fx.high" in text for text in architecture.misplaced(files, ORDER))
    assert architecture.circles(files) == [["upscale_fx.high.first", "upscale_fx.low.second"]]


def test_neighbours_that_know_each_other_are_noticed(package):
    assert len(architecture.misplaced(architecture.sources(package), "__init__ > high | low")) == 1


def test_a_room_that_the_table_lacks_is_noticed_and_one_that_is_not_there(package):
    files = architecture.sources(package)
    assert architecture.misplaced(files, "__init__ > high") == ["low is missing in the table"]
    assert architecture.misplaced(files, "__init__ > high > low > cellar") == ["cellar is in the table only"]


def test_what_is_too_large_is_noticed(package):
    long = "def long():\n" + "    print()\n" * 60
    (package / "low" / "second.py").write_text('def short():\n    """' + "\n" * 70 + '"""\n\n\n' + long)
    (package / "low" / "third.py").write_text("\n" * 301)
    for number in range(24):
        (package / "low" / f"more_{number}.py").write_text("")
    problems = " ".join(architecture.too_large(architecture.sources(package)))
    assert "long has 61 lines" in problems
    assert "short" not in problems
    assert "third.py: 301 lines" in problems
    assert "low: 27 modules" in problems


def test_a_name_in_a_string_that_does_not_exist_is_noticed(tmp_path):
    path = tmp_path / "one.py"
    path.write_text('"""See :mod:`upscale_fx.places` and upscale_fx.prune."""\n')
    assert [(name, exists(name)) for _, name in architecture.names_in_strings(path)] == [
        ("upscale_fx.places", False),
        ("upscale_fx.prune", True),
    ]
