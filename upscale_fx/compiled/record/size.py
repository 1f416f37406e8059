"""The size of a graph: parameters, bytes and multiply-adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from upscale_fx.compiled.record.row_axes import RowAxes, symbols_of


@dataclass(frozen=True)
class Size:
    """Parameters, bytes and multiply-adds of a graph.

    Attributes:
        parameters: number of parameters.
        bytes: bytes of parameters and persistent buffers.
        by_rows: multiply-adds per row of all contractions with a weight, by row axes; these are pairs of sizes in the
            two example graphs, which also distinguish axes without a symbol.
    """

    parameters: int
    bytes: int
    by_rows: Mapping[RowAxes, int]

    @property
    def macs(self) -> dict[str, int]:
        """Multiply-adds per row symbol (``{"N": 1000}``: 1000 per node)."""
        totals: Counter[str] = Counter()
        for rows, count in self.by_rows.items():
            totals[symbols_of(rows)] += count
        return dict(totals)

    def macs_text(self) -> str:
        """``1,000 per N + 200 per E``."""
        parts = [f"{count:,} per {symbol}" for symbol, count in sorted(self.macs.items(), key=lambda item: -item[1])]
        return " + ".join(parts) or "0"
