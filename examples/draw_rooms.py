"""Draw the rooms of the package and the path of a model through them: the picture in docs/architecture.md.

python examples/draw_rooms.py docs/rooms.svg

The rooms, their order and their sizes are read from docs/architecture.md and from the source, so that the picture
matches the code. A room is drawn above those that it may import.
"""

from __future__ import annotations

import argparse
import ast
import textwrap
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "upscale_fx"

#: The path of a model: by room, the name of the step and its result.
PIPELINE = {
    "tracing": ("1 trace", "a graph that computes\nwhat the model computes"),
    "masking": ("2 mask", "zeros where a layer\nmay stop reading"),
    "compacting": ("3 compact", "only live channels,\nin the readers' order"),
    "passes": ("4 optimise", "message passing fused,\nstructure done once"),
    "operators": ("5 run", "kernels over\nsorted edges"),
}
_WIDTH, _GAP = 30.0, 0.6
#: Heights of a room that is a folder, of a room that is a file, and of a step of the pipeline.
_FOLDER, _FILE, _STEP = 2.4, 1.1, 4.4


@dataclass(frozen=True)
class Room:
    """A folder of the package: the first sentence of its docstring, and its size."""

    name: str
    says: str
    modules: int
    lines: int


def floors(page: str) -> list[list[str]]:
    """The table of docs/architecture.md: rooms from the top floor down, neighbours together."""
    table = page.split("```")[1]
    return [[room.strip() for room in floor.split("|")] for floor in table.split(">")]


def read(name: str) -> Room | None:
    """A room, read from the source; None for a room that is a file."""
    folder = PACKAGE / name
    if not folder.is_dir():
        return None
    files = list(folder.resolve().rglob("*.py"))
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    lines = sum(path.read_text().count("\n") for path in files)
    return Room(name, docstring.split("\n\n")[0].replace("``", "").replace("\n", " "), len(files), lines)


def draw(axes: Axes, rows: list[list[str]]) -> float:
    """Draw the pipeline as a row of steps, and below it the rooms, one floor per row; returns the total height."""
    top = 0.0
    width = (_WIDTH - 2.0 * (len(PIPELINE) - 1)) / len(PIPELINE)
    for number, (room, (step, makes)) in enumerate(PIPELINE.items()):
        left = number * (width + 2.0)
        _draw_box(axes, (left, top - _STEP, width, _STEP), "#f2d9d9")
        axes.text(left + width / 2, top - 0.9, step, fontsize=11, fontweight="bold", ha="center", va="center")
        axes.text(left + width / 2, top - 2.3, makes, fontsize=7.5, ha="center", va="center")
        axes.text(left + width / 2, top - 3.8, f"{room}/", fontsize=8, ha="center", va="center", family="monospace")
        if number:
            ends = (left - 1.85, top - _STEP / 2), (left - 0.15, top - _STEP / 2)
            axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=16, color="#c44e52", lw=2))
    bottom = top - _STEP - 1.6
    axes.text(0, bottom, "The rooms: each may import what lies below it, and no neighbour", fontsize=9, va="bottom")
    for names in rows:
        rooms = {name: read(name) for name in names}
        height = _FOLDER if any(rooms.values()) else _FILE
        wide = (_WIDTH - _GAP * (len(names) - 1)) / len(names)
        bottom -= height + _GAP
        for place, (name, content) in enumerate(rooms.items()):
            _draw_room(axes, name, content, (place * (wide + _GAP), bottom, wide, height))
    axes.set_xlim(-0.5, _WIDTH + 0.5)
    axes.set_ylim(bottom - 0.5, 0.5)
    axes.set_axis_off()
    return -bottom


def _draw_box(axes: Axes, box: tuple[float, float, float, float], colour: str) -> None:
    left, bottom, width, height = box
    style = "round,pad=0.1"
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle=style, facecolor=colour, edgecolor="#4c72b0"))


def _draw_room(axes: Axes, name: str, room: Room | None, box: tuple[float, float, float, float]) -> None:
    left, bottom, width, height = box
    _draw_box(axes, box, "#f2d9d9" if name in PIPELINE else "#e8eef6")
    middle = bottom + height - 0.55
    axes.text(left + 0.2, middle, f"{name}/" if room else f"{name}.py", fontsize=8.5, fontweight="bold", va="center")
    if room is not None:
        size = f"{room.modules} files, {room.lines:,} lines"
        axes.text(left + width - 0.2, middle, size, fontsize=6, ha="right", va="center", color="#555555")
        says = "\n".join(textwrap.wrap(room.says, int(width * 6))[:3])
        axes.text(left + 0.2, bottom + height - 1.0, says, fontsize=6.5, va="top")


def main(argv: list[str] | None = None) -> Path:
    """Draw the rooms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", default="docs/rooms.svg", type=Path)
    path: Path = parser.parse_args(argv).path
    figure = Figure(layout="constrained")
    height = draw(figure.add_subplot(), floors((ROOT / "docs" / "architecture.md").read_text()))
    figure.set_size_inches(10, height / 3)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


if __name__ == "__main__":
    print(main())
