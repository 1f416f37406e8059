"""How convolutions are emitted in given layouts."""

from __future__ import annotations

import numpy as np
from torch import fx

from upscale_fx.channels.positions import Positions
from upscale_fx.channels.relations.convolutions import Convolution
from upscale_fx.compacting.rewrite.misaligned import Misaligned
from upscale_fx.compacting.rewrite.rewriter import Rewriter


def emit_convolution(rw: Rewriter, node: fx.Node, relation: Convolution) -> fx.Node:
    """The same call on the channels it reads, its weight cut to them and to the outputs that are kept."""
    layout, (at, read_at, in_kernel) = rw.layouts[node], relation.places
    outputs = _channels(layout, at)
    if not np.array_equal(_everywhere(outputs, at).reshape(-1), layout.reshape(-1)):
        raise Misaligned(node)  # space is kept whole, and in place
    kept = np.isin(np.arange(relation.channels[0]), outputs)
    wanted = relation.inputs(kept, rw.flow.nonzero)
    inputs = np.flatnonzero(wanted)
    if relation.x.op != "get_attr":
        held = _channels(rw.layouts[relation.x], read_at)
        inputs = held[wanted[held]]
    space, kernel = rw.flow.axes[relation.x].shape[2:], rw.flow.axes[relation.weight].shape[2:]
    x = _everywhere(inputs, read_at).reshape(1, len(inputs), *space)
    weight = _everywhere((outputs[:, None] * relation.channels[1] + inputs).reshape(-1), in_kernel)
    replaced = {
        relation.x: rw.read(relation.x, x),
        relation.weight: rw.read(relation.weight, weight.reshape(len(outputs), len(inputs), *kernel)),
    }
    if relation.bias is not None:
        replaced[relation.bias] = rw.read(relation.bias, outputs)
    return rw.call(node, replaced)


def _channels(layout: Positions, places: int) -> Positions:
    """The channels of a layout in the order they stand in it."""
    return np.array(list(dict.fromkeys((layout.reshape(-1) // places).tolist())), dtype=np.int64)


def _everywhere(channels: Positions, places: int) -> Positions:
    """The positions of channels at all places: ``[channels, places]``."""
    return channels[:, None] * places + np.arange(places, dtype=np.int64)
