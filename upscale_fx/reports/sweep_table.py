"""The table of a sweep: one row per amount, as text, Markdown, comma-separated values and a picture."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from upscale_fx.reports.latency import Latency
from upscale_fx.reports.sweep_picture import draw
from upscale_fx.reports.sweep_row import SweepRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEADERS = ("amount", "score", "parameters", "MACs per node", "ms [quartiles]", "of dense [quartiles]", "note")


@dataclass(frozen=True)
class Sweep:
    """Score and cost at several amounts; prints as a table.

    Attributes:
        rows: the dense model, then one row per amount, in their order.
        eager: the latency of the original model, not compiled; None where nothing was timed.
    """

    rows: tuple[SweepRow, ...]
    eager: Latency | None = None

    def __str__(self) -> str:
        return "\n".join([self._table("simple"), *self._eager_text()])

    def to_markdown(self) -> str:
        """The table as Markdown."""
        return "\n\n".join([self._table("github"), *self._eager_text()])

    def to_csv(self, path: str | Path) -> Path:
        """Write the rows, unrounded, to a file; times in milliseconds."""
        names = ["amount", "score", "parameters", "macs_per_node", "ms", "ms_q1", "ms_q3", "ratio", "ratio_q1"]
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*names, "ratio_q3", "rounds", "macs", "note"])
            for row in self.rows:
                latency = row.latency
                timed = [""] * 7
                if latency is not None:
                    values = (latency.median, *latency.spread, latency.ratio, *latency.ratio_spread, latency.rounds)
                    timed = [str(value) for value in values]
                macs = "; ".join(f"{count} per {symbol}" for symbol, count in (row.macs or {}).items())
                cells = [_number_text(value) for value in (row.score, row.parameters, row.macs_per_node)]
                writer.writerow([row.amount, *cells, *timed, macs, row.note])
        return Path(path)

    def draw(self, path: str | Path | None = None) -> Figure:
        """Draw score against multiply-adds, parameters and, where measured, latency; see :func:`upscale_fx.sweep`.

        Args:
            path: an image file (.png, .svg, .pdf) to write; None writes none.

        Returns:
            The matplotlib figure.

        Raises:
            ImportError: matplotlib is not installed (``pip install upscale_fx[draw]``).
        """
        return draw(self.rows, path)

    def _table(self, style: str) -> str:
        rows = [row.cells() for row in self.rows]
        shown = [place for place, name in enumerate(_HEADERS) if name == "score" or any(row[place] for row in rows)]
        return str(
            tabulate(
                [[row[place] for place in shown] for row in rows],
                headers=[_HEADERS[place] for place in shown],
                tablefmt=style,
                colalign=["left" if _HEADERS[place] == "note" else "right" for place in shown],
                disable_numparse=True,
            )
        )

    def _eager_text(self) -> list[str]:
        if self.eager is None:
            return []
        dense = f"{self.eager.ratio_text} of the dense model compiled, {self.eager.rounds} rounds in turns"
        return [f"the model as it came: {self.eager} ms, {dense}"]


def _number_text(value: float | None) -> str:
    return "" if value is None else repr(value)
