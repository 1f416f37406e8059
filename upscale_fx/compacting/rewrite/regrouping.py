"""How operations that change what a row is are emitted in given layouts, and graphs made inside a model."""

from __future__ import annotations

import numpy as np
from torch import fx

from upscale_fx.channels.relations.regrouping import Neighbours, Regrouping
from upscale_fx.compacting.rewrite.misaligned import Misaligned
from upscale_fx.compacting.rewrite.movement import reshape_to
from upscale_fx.compacting.rewrite.rewriter import Rewriter


def emit_regrouping(rw: Rewriter, node: fx.Node, relation: Regrouping) -> fx.Node:
    """The same regrouping of the channels that are kept, the same ones in every row of a group."""
    source, layout = relation.source, rw.layouts[node]
    given, own = rw.flow.axes[source].shape, rw.flow.axes[node].shape
    theirs, mine = relation.lead
    if mine == 1 and not relation.gathers:  # static axes become rows
        shape = _channel_shape(rw, node, relation, layout.shape[1:], len(given) - theirs)
        wanted = relation.index[:, layout.reshape(-1)].reshape(*given[:theirs], *shape)
        return reshape_to(rw, node, source, rw.read(source, wanted), layout.shape)
    held = relation.index[0][layout].reshape(int(np.prod(layout.shape[:mine])), -1)
    if np.any(held != held[:1]):
        raise Misaligned(node)  # every row of a group keeps the same channels
    channels = held[0].reshape(layout.shape[mine:])
    rows = np.arange(int(np.prod(own[:mine])), dtype=np.int64) * rw.flow.axes[source].count
    natural = (rows[:, None] + held[0]).reshape(*own[:mine], *channels.shape)
    shape = _channel_shape(rw, node, relation, channels.shape, len(given) - theirs)
    read = rw.read(source, channels.reshape(*given[:theirs], *shape))
    new = rw.call(node, {source: read}) if relation.gathers else reshape_to(rw, node, source, read, natural.shape)
    return rw.reorder(new, natural, layout, node)


def _channel_shape(
    rw: Rewriter, node: fx.Node, relation: Regrouping, shape: tuple[int, ...], rank: int
) -> tuple[int, ...]:
    """The shape that kept channels have in the source, given the one they have in the result."""
    if rank == 1:
        return (int(np.prod(shape)),)
    if rank != len(shape):
        raise Misaligned(node, relation.source)
    return shape


def emit_neighbours(rw: Rewriter, node: fx.Node, relation: Neighbours) -> fx.Node:
    """The same call on whatever its source holds: all channels that are not zero, in any order."""
    assert relation.source is not None
    return rw.call(node, {relation.source: rw.value(relation.source)})
