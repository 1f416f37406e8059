"""The tests with the oldest and with the newest libraries that the package takes: ``make test-versions``.

The oldest are the lower bounds in pyproject.toml, the newest what pip finds; constraints.txt has no say in either. Each
end gets an environment under .venv-versions, which is kept and updated: with torch for GPUs, some 6 GB each. The tests
are those of ``make test``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv-versions"
SHOWN = ("torch", "torch_geometric", "numba", "networkx", "numpy")


@dataclass(frozen=True)
class Outcome:
    """How many tests ended how, at one end of the range."""

    passed: int
    failed: int
    skipped: int

    @property
    def fine(self) -> bool:
        """Whether tests ran and none failed."""
        return self.passed > 0 and self.failed == 0


def oldest() -> list[str]:
    """The lower bounds of the requirements, each with its newest patch: ``torch>=2.11`` gives ``torch==2.11.*``."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = [requirement.partition(">=") for requirement in project["dependencies"]]
    return [f"{name}=={bound}.*" for name, _, bound in bounds if bound]


ENDS = {"oldest": oldest, "newest": list}


def install(end: str) -> Path:
    """Make or update the environment of an end; returns its Python."""
    python = FOLDER / end / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        print(f"Installing into {python.parents[1].relative_to(ROOT)} (the first time takes some minutes)", flush=True)
        venv.create(python.parents[1], with_pip=True, symlinks=os.name != "nt")
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--upgrade"]
    wanted = ["--upgrade-strategy", "eager", "-e", ".[dev,draw]", *ENDS[end]()]
    if subprocess.run([*pip, *wanted], cwd=ROOT, check=False).returncode:
        sys.exit(f"{end}: pip could not install {' '.join(wanted)}")
    return python


def versions(python: Path) -> str:
    """What is installed of the libraries that matter."""
    code = f"from importlib.metadata import version; print(', '.join(f'{{p}} {{version(p)}}' for p in {SHOWN}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def run(python: Path, end: str, workers: str, arguments: Sequence[str]) -> Outcome:
    """Run the tests and count how they ended."""
    file = FOLDER / f"{end}.xml"
    file.unlink(missing_ok=True)
    pytest = [str(python), "-m", "pytest", "-q", "-n", workers, "--dist", "worksteal"]
    command = [*pytest, f"--junit-xml={file}", *arguments]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    if not file.exists():  # pytest itself broke
        return Outcome(0, 1, 0)
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in ElementTree.parse(file).getroot().iter("testsuite"):
        counts = {name: count + int(suite.attrib[name]) for name, count in counts.items()}
    failed = counts["failures"] + counts["errors"]
    return Outcome(counts["tests"] - failed - counts["skipped"], failed, counts["skipped"])


def main() -> None:
    """Test both ends, or one, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--end", choices=tuple(ENDS), help="only this one")
    parser.add_argument("--workers", default="2", help="how many test processes (default: %(default)s)")
    parser.add_argument(
        "pytest", nargs="*", default=["-m", "not slow"], help="after --: what pytest runs (default: %(default)s)"
    )
    options = parser.parse_args()
    lines, fine = [], True
    for end in [options.end] if options.end else ENDS:
        python = install(end)
        print(f"{end}: {versions(python)}", flush=True)
        outcome = run(python, end, options.workers, options.pytest)
        fine = fine and outcome.fine
        counts = f"{outcome.passed} passed, {outcome.failed} failed, {outcome.skipped} skipped"
        lines.append(f"{end}: {versions(python)}: {counts}")
    print("\n".join(lines))
    sys.exit(not fine)


if __name__ == "__main__":
    main()
