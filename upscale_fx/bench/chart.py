"""A bar chart of a run: median times by model and column, on a logarithmic axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from upscale_fx.bench.run import Result

#: Colour maps (dark to light) of the columns, by how their names begin.
_COLOURS = {"PyG": "Greys", "torch.compile": "Greys", "Torch-Pruning": "Oranges", "upscale": "Blues"}


def draw(results: Mapping[str, Result], title: str, path: Path) -> None:
    """Write the chart to an image file; bars reach to the median, whiskers from the first to the third quartile.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: matplotlib does not know the file's extension.
    """
    check_drawing(path)
    import matplotlib  # noqa: PLC0415 - an optional dependency
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency

    timed = {model: _timed(result) for model, result in results.items()}
    columns = list(dict.fromkeys(name for cells in timed.values() for name in cells))
    figure = Figure(figsize=(max(6.0, 1.5 + 0.16 * len(columns) * len(results)), 4.5), layout="constrained")
    axes = figure.subplots()
    width = 0.85 / max(1, len(columns))
    for place, name in enumerate(columns):
        bars = [(number, cells[name]) for number, cells in enumerate(timed.values()) if name in cells]
        axes.bar(
            [number + (place - (len(columns) - 1) / 2) * width for number, _ in bars],
            [middle for _, (_, middle, _) in bars],
            width,
            yerr=[[middle - low for _, (low, middle, _) in bars], [high - middle for _, (_, middle, high) in bars]],
            color=matplotlib.colormaps[_colours(name)](_shade(name, columns)),
            label=name,
            error_kw={"elinewidth": 0.6},
        )
    axes.set_yscale("log")
    axes.set_ylabel("milliseconds")
    axes.set_xticks(range(len(results)), list(results))
    axes.set_title(title, fontsize="medium")
    if columns:
        axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)


def _timed(result: Result) -> dict[str, tuple[float, float, float]]:
    """Quartiles in milliseconds of the columns that have times."""
    quartiles = {name: cell.quartiles for name, cell in result.inference.items()}
    return {name: (1e3 * q[0], 1e3 * q[1], 1e3 * q[2]) for name, q in quartiles.items() if q is not None}


def _colours(name: str) -> str:
    return next((colours for kind, colours in _COLOURS.items() if name.startswith(kind)), "Greens")


def _shade(name: str, columns: Sequence[str]) -> float:
    """The shade of a column, from dark (0.9) to light (0.3) over the columns of one colour map."""
    alike = [other for other in columns if _colours(other) == _colours(name)]
    return 0.9 - 0.6 * alike.index(name) / max(1, len(alike) - 1)


def check_drawing(path: Path) -> None:
    """Check that a chart can be drawn, before anything slow happens.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: matplotlib does not know the file's extension.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency
    except ImportError:
        raise ImportError("drawing needs matplotlib: pip install upscale_fx[draw]") from None
    known = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in known:
        raise ValueError(f"{path.name!r} does not end in one of {', '.join(known)}")
