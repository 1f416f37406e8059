"""Compaction of a traced graph, and the cost of the graph that masks would leave."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from upscale_fx.channels.positions import Mask
from upscale_fx.compiled.deferred_code import code_when_called
from upscale_fx.compiled.module import CompiledGNN, note
from upscale_fx.masking.allocation.call_rows import CallRows
from upscale_fx.masking.allocation.cost import Cost, cost_of
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.passes import (
    ApproximateNorms,
    CompactChannels,
    FixStatistics,
    FoldAttention,
    FoldConstants,
    Pass,
    Pipeline,
    RemoveDeadNodes,
    RemoveZeroTerms,
    ShareStructure,
)
from upscale_fx.passes.base import Callback


def compacted(traced: CompiledGNN, callback: Callback | None, approximate_norms: bool) -> CompiledGNN:
    """The graph without its dead channels."""
    # A fold that does not pay at full width may pay after compaction, so attention is tried twice.
    compaction: list[Pass] = [FoldAttention(), CompactChannels(), FoldAttention(), CompactChannels()]
    if approximate_norms:
        compaction = [ApproximateNorms(), *compaction, FixStatistics()]
    passes = Pipeline([ShareStructure(), RemoveZeroTerms(), FoldConstants(), *compaction, RemoveDeadNodes()], callback)
    with code_when_called():
        result: CompiledGNN = passes(traced).graph_module
    result.make_code()
    return result


@dataclass(frozen=True)
class CompactedCost:
    """The cost of a traced model once channels of its consumers are masked and it is compacted.

    Attributes:
        traced: the traced model.
        approximate_norms: see :func:`upscale_fx.compact`.
    """

    traced: CompiledGNN
    approximate_norms: bool = False

    def __call__(self, consumers: Sequence[Consumer], removed: Sequence[Mask], rows: CallRows) -> Cost:
        """The cost, with ``rows`` in one call."""
        masked = copy.deepcopy(self.traced)
        for consumer, mask in zip(consumers, removed, strict=True):
            consumer.zero(masked, mask)
        note(masked, compacted=False)
        return cost_of(compacted(masked, None, self.approximate_norms), rows)
