"""One amount of a sweep: what the model is worth then, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from upscale_fx.reports.latency import Latency


@dataclass(frozen=True)
class SweepRow:
    """One amount.

    Attributes:
        amount: as text; ``"dense"`` for the unpruned model, which is compiled too.
        score: the result of ``evaluate``; None where there is no model.
        parameters: how many are left; None where there is no model.
        macs: multiply-adds by row symbol, as in the report: ``{"N": 1000}`` is 1000 per node.
        macs_per_node: of one call on the example, divided by its nodes; without an example, ``macs["N"]``.
        latency: of one call on the example; None where nothing was timed.
        note: why there is no model, or what the numbers leave out.
    """

    amount: str
    score: float | None = None
    parameters: int | None = None
    macs: Mapping[str, int] | None = None
    macs_per_node: float | None = None
    latency: Latency | None = None
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        return (
            self.amount,
            "" if self.score is None else f"{self.score:.6g}",
            "" if self.parameters is None else f"{self.parameters:,}",
            "" if self.macs_per_node is None else f"{self.macs_per_node:,.0f}",
            "" if self.latency is None else str(self.latency),
            "" if self.latency is None else self.latency.ratio_text,
            self.note,
        )
