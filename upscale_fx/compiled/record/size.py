"""What a graph costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from upscale_fx.compiled.record.row_axes import RowAxes, symbols_of


@dataclass(frozen=True)
class Size:
    """What a graph costs.

    Attributes:
        parameters: number of parameters.
        bytes: bytes of parameters and persistent buffers.
        by_rows: multiply-adds of all contractions with a weight, per row, by the sizes of row axes in the two example
            graphs, which tell those apart that have no symbol.
    """

    parameters: int
    bytes: int
    by_rows: Mapping[RowAxes, int]

    @property
    def macs(self) -> dict[str, int]:
        """Multiply-adds per row symbol (``{"N": 1000}``: 1000 per node)."""
        found: Counter[str] = Counter()
        for rows, count in self.by_rows.items():
            found[symbols_of(rows)] += count
        return dict(found)

    def macs_text(self) -> str:
        """``1,000 per N + 200 per E``."""
        parts = [f"{count:,} per {symbol}" for symbol, count in sorted(self.macs.items(), key=lambda item: -item[1])]
        return " + ".join(parts) or "0"
