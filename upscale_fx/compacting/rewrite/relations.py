"""How each relation but movement is emitted in given layouts."""

from __future__ import annotations

import operator

import numpy as np
from torch import fx

from upscale_fx.channels.positions import Flow, Mask, Positions
from upscale_fx.channels.relations import Barrier, Contraction, Pointwise, Reduction, Relation
from upscale_fx.channels.rules.registry import call_of
from upscale_fx.compacting.order.ranking import read_costs
from upscale_fx.compacting.rewrite.misaligned import Misaligned
from upscale_fx.compacting.rewrite.rewriter import Rewriter
from upscale_fx.compacting.rewrite.ties import mates_of


def emit_source(rw: Rewriter, node: fx.Node, relation: Relation) -> fx.Node | None:
    """Inputs stay as they are; parameters are made where they are read."""
    if node.op == "get_attr":
        return None  # made where it is read
    inner, _ = call_of(node, rw.flow.values)
    if inner.op == "placeholder":  # an input, or an element of a tuple that is one
        return rw.copy_call(node, rw.whole)
    # new_zeros and the like look at nothing but dtype and device
    return rw.copy_call(node, rw.any_layout)


def emit_barrier(rw: Rewriter, node: fx.Node, relation: Barrier) -> fx.Node:
    """The same call on whole operands."""
    rw.keep_module_whole(node)
    return rw.copy_call(node, rw.whole)


def emit_pointwise(rw: Rewriter, node: fx.Node, relation: Pointwise) -> fx.Node:
    """The same call, every operand read so that it lines up with the result."""
    layout = rw.layouts[node]
    replaced = {f.source: rw.read(f.source, _operand_layout(rw, node, f, layout)) for f in relation.flows}
    new = rw.call(node, replaced)
    if relation.module is not None:
        _register_module(rw, node, relation.module, layout)
    return new


def _operand_layout(rw: Rewriter, node: fx.Node, flow: Flow, layout: Positions) -> Positions:
    """The layout an operand needs so that, broadcast, it lines up with the result's layout."""
    wanted = flow.index[layout]
    given = rw.flow.axes[flow.source]
    along = [a for a in flow.axes if a is not None]
    for axis in range(layout.ndim):
        if axis not in along and wanted.shape[axis] > 1:
            first = np.take(wanted, [0], axis=axis)
            if np.any(wanted != first):
                raise Misaligned(node)
            wanted = first
    shape = tuple(1 if target is None else wanted.shape[target] for target in flow.axes)
    if len(shape) != len(given.shape):
        raise Misaligned(node)
    return wanted.reshape(shape)


def _register_module(rw: Rewriter, node: fx.Node, target: str, layout: Positions) -> None:
    coordinate = np.unravel_index(layout, rw.flow.axes[node].shape)[1]
    lines = np.moveaxis(coordinate, 1, 0).reshape(layout.shape[1], -1)
    if np.any(lines != lines[:, :1]):
        raise Misaligned(node)
    channels = lines[:, 0].astype(np.int64)
    if layout.size * rw.flow.axes[node].shape[1] != len(channels) * rw.flow.axes[node].count:
        raise Misaligned(node)  # statistics of fewer positions than there are
    known, other = rw.modules.get(target, (None, node))
    in_place = np.array_equal(channels, np.arange(rw.flow.axes[node].shape[1]))
    whole = known is None and other is not node and not in_place
    if whole or (known is not None and not np.array_equal(known, channels)):
        raise Misaligned(node, other)  # one module, two layouts
    for mate in mates_of(rw.flow.module, target, rw.modules):
        others, last = rw.modules[mate]
        if not (in_place if others is None else np.array_equal(others, channels)):
            raise Misaligned(node, last)  # one weight in two modules
    rw.modules[target] = (channels, node)


def emit_contraction(rw: Rewriter, node: fx.Node, relation: Contraction) -> fx.Node:
    """The same call on the channels it reads, its weight cut to them and to the outputs that are kept."""
    layout = rw.layouts[node]
    outputs = rw.flow.axes[node].shape[-1]
    inputs = rw.flow.axes[relation.x].shape[-1]
    lead, out = np.divmod(layout, outputs)
    rows = out.reshape(-1, layout.shape[-1])
    if np.any(rows != rows[:1]) or np.any(lead != lead[..., :1]):
        raise Misaligned(node)  # one weight serves all batch positions: they must keep the same outputs
    wanted = dict(relation.need(_mask_of(layout, len(rw.kept[node])), rw.flow.nonzero))[relation.x]
    asked = wanted.reshape(relation.batch, inputs)[lead.flat[0]]
    columns = _choose_columns(rw, node, relation, asked, len(rows[0]))
    x_layout = lead[..., :1] * inputs + columns
    grid = rows[0][:, None] * inputs + columns[None]
    if relation.transposed:
        grid = (columns[:, None] * outputs + rows[0][None]).astype(np.int64)
    replaced = {relation.x: rw.read(relation.x, x_layout), relation.weight: rw.read(relation.weight, grid)}
    if relation.bias is not None:
        replaced[relation.bias] = rw.read(relation.bias, rows[0].copy())
    new = rw.call(node, replaced)
    new.meta["widened"] = len(columns) - int(np.count_nonzero(asked[columns]))
    return new


def _mask_of(layout: Positions, count: int) -> Mask:
    mask = np.zeros(count, dtype=bool)
    mask[layout.reshape(-1)] = True
    return mask


def _choose_columns(rw: Rewriter, node: fx.Node, relation: Contraction, wanted: Mask, outputs: int) -> Positions:
    """Which input channels are read, in the order they stand: a view if contiguous, else a copy or a wider read."""
    inputs = len(wanted)
    if relation.x.op == "get_attr":
        return np.flatnonzero(wanted)
    have = rw.layouts[relation.x].reshape(-1) % inputs
    line = np.array(list(dict.fromkeys(have.tolist())), dtype=np.int64)
    places = np.flatnonzero(wanted[line])
    span = line[places[0] : places[-1] + 1]
    copy, wider = read_costs(rw.flow, node, relation.x, (len(places), outputs), rw.widen)
    return span if wider * (len(span) - len(places)) < copy else line[places]


def _reduced_layout(rw: Rewriter, node: fx.Node, relation: Reduction) -> Positions:
    """The layout a reduction's source has; a parameter is cut to what is reduced."""
    source = relation.source
    if source.op != "get_attr":
        return rw.layouts[source]
    needed = _mask_of(rw.layouts[node], len(rw.kept[node]))
    wanted = np.flatnonzero(next(mask for _, mask in relation.need(needed, rw.flow.nonzero)))
    shape = rw.flow.axes[source].shape
    return rw.flow.axes[source].everything()[np.ix_(*map(np.unique, np.unravel_index(wanted, shape)))]


def emit_reduction(rw: Rewriter, node: fx.Node, relation: Reduction) -> fx.Node:
    """The same reduction of fewer channels; a mean still divides by as many as it did."""
    source = relation.source
    have = _reduced_layout(rw, node, relation)
    held = relation.index[have]
    channel = tuple(a for a in relation.axes if rw.flow.axes[source].shape[a] > 1)
    first = held
    for axis in channel:
        first = np.take(first, [0], axis=axis)
    if np.any(held != first):
        raise Misaligned(source)
    natural = (
        first if relation.keep else first.reshape([s for a, s in enumerate(first.shape) if a not in relation.axes])
    )
    before = int(np.prod([rw.flow.axes[source].shape[a] for a in channel]))
    after = int(np.prod([have.shape[a] for a in channel]))
    if relation.how == "max" and before != after:
        raise Misaligned(source)
    if relation.how == "mean" and before != after:
        args = (rw.read(source, have), list(relation.axes), relation.keep)
        total = rw.graph.create_node("call_method", "sum", args, {}, f"{node.name}_sum")
        total.meta = dict(node.meta)
        new = rw.graph.create_node("call_function", operator.truediv, (total, before), {}, node.name)
        new.meta = dict(node.meta)
    else:
        new = rw.call(node, {source: rw.read(source, have)})
    return rw.reorder(new, natural, rw.layouts[node], node)
