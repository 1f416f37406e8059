"""How statistics over channels are emitted: on whatever channels stand there, with a share to match."""

from __future__ import annotations

import numpy as np
from torch import fx

from upscale_fx.channels.relations.statistics import Normalisation, Statistic, new_share
from upscale_fx.compacting.rewrite.misaligned import Misaligned
from upscale_fx.compacting.rewrite.rewriter import Rewriter


def emit_statistic(rw: Rewriter, node: fx.Node, relation: Statistic | Normalisation) -> fx.Node:
    """The same call on all channels its source keeps, and of its result what is wanted."""
    source = relation.source
    have = rw.layouts[source]
    held = relation.fibres[have]
    first = held
    for axis in relation.axes:
        first = np.take(first, [0], axis=axis)
    if np.any(held != first):
        raise Misaligned(source)  # a fibre of the compacted value would hold channels of two heads
    new = rw.call(node, {source: rw.read(source, have)})
    if relation.scaling != "none":
        share = float(new.args[-1]) * new_share(relation, rw.flow.nonzero[source], have)  # type: ignore[arg-type]
        new.args = (*new.args[:-1], share)
    natural = have
    if isinstance(relation, Statistic):
        shape = [size for axis, size in enumerate(first.shape) if axis not in relation.axes]
        natural = first if relation.keep else first.reshape(shape)
    return rw.reorder(new, natural, rw.layouts[node], node)
