"""Rewrite a graph to given layouts: every value holds only the channels it keeps, in the chosen order.

Operations are emitted in the form that fits their layouts, parameters are cut to what is read of them, and where a
reader wants other channels, or another order, than a value has, a reorder is inserted: a view (``narrow``) where they
are contiguous, else a copy (``index_select``). Every step is checked on positions: what cannot be expressed raises
:class:`Misaligned`, upon which the caller gives the values concerned less freedom and starts again.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Mask, Positions
from upscale_fx.channels.relations import Barrier, Contraction, Movement, Pointwise, Reduction, Source
from upscale_fx.channels.relations.convolutions import Convolution
from upscale_fx.channels.relations.products import Lookup, Product, Recurrence
from upscale_fx.channels.relations.regrouping import Neighbours, Regrouping
from upscale_fx.channels.relations.statistics import Normalisation, Statistic
from upscale_fx.compacting.rewrite.approximate import emit_statistic
from upscale_fx.compacting.rewrite.convolution import emit_convolution
from upscale_fx.compacting.rewrite.misaligned import Misaligned, raise_first
from upscale_fx.compacting.rewrite.movement import emit_movement
from upscale_fx.compacting.rewrite.products import emit_lookup, emit_product, emit_recurrence
from upscale_fx.compacting.rewrite.regrouping import emit_neighbours, emit_regrouping
from upscale_fx.compacting.rewrite.relations import (
    emit_barrier,
    emit_contraction,
    emit_pointwise,
    emit_reduction,
    emit_source,
)
from upscale_fx.compacting.rewrite.rewriter import Emitter, Rewriter
from upscale_fx.compiled.module import CompiledGNN

_EMIT: dict[type, Emitter] = {
    Source: emit_source, Barrier: emit_barrier, Pointwise: emit_pointwise, Contraction: emit_contraction,
    Reduction: emit_reduction, Movement: emit_movement, Product: emit_product, Lookup: emit_lookup,
    Recurrence: emit_recurrence, Regrouping: emit_regrouping, Neighbours: emit_neighbours,
    Convolution: emit_convolution, Statistic: emit_statistic, Normalisation: emit_statistic,
}  # fmt: skip


def rewrite(
    flow: Dataflow, kept: Mapping[fx.Node, Mask], layouts: dict[fx.Node, Positions], widen: bool = True
) -> CompiledGNN:
    """The graph in which every value has the given layout and values without one are gone.

    Raises:
        Misaligned: a layout cannot be expressed; names the values concerned.
    """
    rewriter = Rewriter(flow, kept, layouts, widen)
    rewriter.run(_EMIT)
    storage = rewriter.shared_storage()
    if storage:  # some parameter is read in several layouts: now that they are known, read it by reorders
        rewriter = Rewriter(flow, kept, layouts, widen, storage)
        rewriter.run(_EMIT)
    return rewriter.module()


__all__ = ["Misaligned", "Rewriter", "raise_first", "rewrite"]
