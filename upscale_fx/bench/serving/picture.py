"""A picture of the benchmark of servers: median times of answers by model, size of questions and column."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from upscale_fx.bench.chart import check_drawing
from upscale_fx.bench.serving.answers import Cells


def draw(results: Mapping[str, Cells], title: str, path: Path) -> None:
    """Write the picture; bars reach to the median, whiskers from the fastest answer to that of 99 %.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: matplotlib does not know the file's extension.
    """
    check_drawing(path)
    import matplotlib  # noqa: PLC0415 - an optional dependency
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency

    sizes = list(next(iter(results.values())))
    figure = Figure(figsize=(2.5 + 3.5 * len(sizes), 4.0), layout="constrained")
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, size in zip(panels, sizes, strict=True):
        names = list(next(iter(results.values()))[size])
        width = 0.85 / len(names)
        for place, name in enumerate(names):
            cells = [cells[size][name] for cells in results.values()]
            middle = [1e3 * cell.percentile(50) for cell in cells]
            low = [m - 1e3 * min(cell.seconds) for m, cell in zip(middle, cells, strict=True)]
            high = [1e3 * cell.percentile(99) - m for m, cell in zip(middle, cells, strict=True)]
            at = [number + (place - (len(names) - 1) / 2) * width for number in range(len(cells))]
            colour = matplotlib.colormaps["viridis"](place / max(1, len(names) - 1))
            axes.bar(at, middle, width, yerr=[low, high], color=colour, label=name, error_kw={"elinewidth": 0.6})
        axes.set_yscale("log")
        axes.set_xticks(range(len(results)), list(results))
        axes.set_title(f"{size} node{'s' if size > 1 else ''}", fontsize="medium")
    panels[0].set_ylabel("milliseconds")
    panels[-1].legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=150)
