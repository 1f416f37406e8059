"""The picture of a sweep: score against cost, with one panel per cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from upscale_fx.reports.sweep_row import SweepRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS, _DENSE = "#4c72b0", "#c44e52"


def draw(rows: Sequence[SweepRow], path: str | Path | None) -> Figure:
    """Draw score against multiply-adds, parameters and, where measured, latency; the dense model is a star.

    Points are joined from the costliest to the cheapest and named by their amount; whiskers of latencies reach from
    the first to the third quartile.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency
    except ImportError:
        raise ImportError("drawing needs matplotlib: pip install upscale_fx[draw]") from None
    rows = [row for row in rows if row.score is not None]
    panels: list[tuple[str, list[float | None]]] = [
        ("multiply-adds per node", [row.macs_per_node for row in rows]),
        ("parameters", [row.parameters for row in rows]),
        ("latency of one call in milliseconds", [row.latency.median if row.latency else None for row in rows]),
    ]
    shown = [(label, costs) for label, costs in panels if any(cost is not None for cost in costs)]
    figure = Figure(figsize=(4.4 * len(shown), 4.0), layout="constrained")
    figure.suptitle("What pruning costs and saves")
    for axes, (label, costs) in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown, strict=True):
        points = [(cost, row) for cost, row in zip(costs, rows, strict=True) if cost is not None]
        _panel(axes, points, timed="latency" in label)
        axes.set_xlabel(label)
    figure.axes[0].set_ylabel("score (higher is better)")
    figure.axes[0].legend(fontsize="small")
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _panel(axes: Axes, points: list[tuple[float, SweepRow]], timed: bool) -> None:
    """One panel of points (cost, row), of which the first row is the dense model."""
    dense, *pruned = points
    ordered = sorted(points, key=lambda point: -point[0])
    axes.plot([x for x, _ in ordered], [row.score or 0.0 for _, row in ordered], color=_POINTS, alpha=0.4, zorder=1)
    axes.scatter([x for x, _ in pruned], [row.score or 0.0 for _, row in pruned], color=_POINTS, label="pruned")
    axes.scatter([dense[0]], [dense[1].score or 0.0], color=_DENSE, marker="*", s=140, label="dense", zorder=3)
    for x, row in points:
        if timed and row.latency is not None:
            low, high = row.latency.spread
            axes.plot([low, high], [row.score or 0.0] * 2, color="grey", linewidth=1, zorder=0)
        if row is not dense[1]:
            axes.annotate(row.amount, (x, row.score or 0.0), (3, 4), textcoords="offset points", fontsize="x-small")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.2)
