"""Draw one layer before and after pruning: the picture in the README, from a real compiled graph.

python examples/draw_layer.py docs/layer.svg
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import fx

import upscale_fx
from upscale_fx.models import SAGE

_COLOURS = {"lin_l": "#4c72b0", "lin_r": "#dd8452"}


@dataclass(frozen=True)
class Read:
    """The channels of a tensor that one consumer reads: ``start`` to ``start + length``."""

    consumer: str
    start: int
    length: int


def reads_of(graph: fx.Graph, value: str) -> list[Read]:
    """The slices of a value that linear layers read."""
    node = next(n for n in graph.nodes if n.name == value)
    reads = []
    for user in node.users:
        if user.target is torch.narrow:
            consumer = _first_linear(user)
            reads.append(Read(str(consumer.meta["module"]), int(user.args[2]), int(user.args[3])))
    return sorted(reads, key=lambda read: read.start)


def _first_linear(node: fx.Node) -> fx.Node:
    while getattr(node.target, "__name__", "") != "linear":
        node = next(iter(node.users))
    return node


def draw(axes: Axes, title: str, width: int, reads: list[Read], full: int) -> None:
    """Draw a tensor as a bar, and the reads of its consumers as bars below."""
    axes.barh(0, width, color="#cccccc", edgecolor="black")
    axes.text(width / 2, 0, f"x  [N, {width}]", ha="center", va="center")
    for row, read in enumerate(reads, start=1):
        colour = _COLOURS[read.consumer.rsplit(".", 1)[-1]]
        axes.barh(-row, read.length, left=read.start, color=colour, edgecolor="black")
        label = f"{read.consumer} reads {read.length}"
        axes.text(read.start + read.length / 2, -row, label, ha="center", va="center", color="white")
        for edge in (read.start, read.start + read.length):
            axes.plot([edge, edge], [-row + 0.4, -0.4], color=colour, linestyle=":")
    axes.set_xlim(-2, full + 2)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_yticks([])
    axes.set_xlabel("channels")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def main(argv: list[str] | None = None) -> Path:
    """Prune a SAGE model and draw what its second layer reads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", default="docs/layer.svg", type=Path)
    path: Path = parser.parse_args(argv).path
    torch.manual_seed(0)
    model = SAGE(64, 256, 7).eval()
    compiled = upscale_fx.prune(model, 0.5)
    reads = reads_of(compiled.graph, "dropout")
    width = max(read.start + read.length for read in reads)
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    before, after = figure.subplots(1, 2, sharey=True)
    draw(before, "before: both layers read everything", 256, [Read(r.consumer, 0, 256) for r in reads], 256)
    draw(after, "after: two views, dead channels gone", width, reads, 256)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


if __name__ == "__main__":
    print(main())
