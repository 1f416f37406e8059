"""The cost of a model, in the units of a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from upscale_fx.analysis.size import size_of
from upscale_fx.channels.positions import Mask
from upscale_fx.compiled.module import CompiledGNN, record_of
from upscale_fx.masking.allocation.budget import CostUnit
from upscale_fx.masking.allocation.call_rows import CallRows
from upscale_fx.masking.consumers.consumer import Consumer


@dataclass(frozen=True)
class Cost:
    """Entries of parameters, bytes of parameters and persistent buffers, multiply-adds of one call."""

    params: float
    bytes: float
    macs: float

    def of(self, unit: CostUnit) -> float:
        """The cost in one unit."""
        return {"params": self.params, "bytes": self.bytes, "macs": self.macs}[unit]


#: Computes the cost of a compacted model from its consumers, their removed channels, and the rows of one call.
Measured = Callable[[Sequence[Consumer], Sequence[Mask], CallRows], Cost]


def cost_of(module: CompiledGNN, rows: CallRows) -> Cost:
    """The cost of a graph, with ``rows`` in one call."""
    size = size_of(module)
    return Cost(size.parameters, size.bytes, rows.multiply_adds(size))


def dense_cost(root: CompiledGNN, rows: CallRows) -> Cost:
    """The cost of the model that a graph was traced from, with parameters that no output needs, as in reports."""
    cost = cost_of(root, rows)
    model = record_of(root).model
    if record_of(root).pruning is not None or model is None:
        return cost
    return replace(cost, params=model.parameters, bytes=model.bytes)
