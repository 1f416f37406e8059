"""How movement is emitted: reshapes stay views, slices become reads, concatenations take slices in any order."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import fx

from upscale_fx.channels.positions import Positions
from upscale_fx.channels.relations import Movement
from upscale_fx.channels.rules.registry import operation_of
from upscale_fx.compacting.rewrite.misaligned import Misaligned
from upscale_fx.compacting.rewrite.rewriter import Rewriter
from upscale_fx.compacting.rewrite.selection import grid_around, selection

#: A concatenation copies anyway, so up to this many pieces of one operand may also reorder it. If all pieces are more
#: than this many beside two of each operand, operands are read in their own orders, and the result is reordered once.
_MOST_PIECES = 16


def emit_movement(rw: Rewriter, node: fx.Node, relation: Movement) -> fx.Node:
    """Emit a movement in the form that suits its kind."""
    return _MOVE[relation.how](rw, node, relation)


def _move_entry(rw: Rewriter, node: fx.Node, relation: Movement) -> fx.Node:
    return rw.read(relation.flows[0].source, rw.layouts[node])


def _move_place(rw: Rewriter, node: fx.Node, relation: Movement) -> fx.Node:
    """Channels that stand elsewhere: a reading; places without a channel need the call itself."""
    flow = relation.flows[0]
    wanted = flow.index[rw.layouts[node]]
    if np.any(wanted < 0):
        raise Misaligned(node)
    return rw.read(flow.source, wanted)


def _source_layout(rw: Rewriter, source: fx.Node, fallback: Positions) -> Positions:
    """The layout a source has; a parameter has whichever is asked."""
    return fallback if source.op == "get_attr" else rw.layouts[source]


def _move_reshape(rw: Rewriter, node: fx.Node, relation: Movement) -> fx.Node:
    source, layout = relation.flows[0].source, rw.layouts[node]
    given = rw.flow.axes[source]
    flat = len(given.wide) <= 1
    asked = _as_shape(given.shape, given.wide, layout.reshape(-1)) if flat else given.everything()
    if not flat and source.op == "get_attr" and layout.size:
        asked = grid_around(given.shape, layout)  # of parameters no more than is wanted
    have = _source_layout(rw, source, asked)
    if np.array_equal(have.reshape(-1), layout.reshape(-1)):
        return reshape_to(rw, node, source, rw.read(source, have), layout.shape)
    if flat:
        return reshape_to(rw, node, source, rw.read(source, asked), layout.shape)
    wide = rw.flow.axes[node].wide
    if len(wide) > 1:
        raise Misaligned(node, source, certain=not np.array_equal(np.sort(have, axis=None), np.sort(layout, axis=None)))
    natural = _as_shape(rw.flow.axes[node].shape, wide, have.reshape(-1))
    new = reshape_to(rw, node, source, rw.read(source, have), natural.shape)
    return rw.reorder(new, natural, layout, node)


def _as_shape(shape: tuple[int, ...], wide: list[int], positions: Positions) -> Positions:
    sizes = [1] * len(shape)
    if wide:
        sizes[wide[0]] = len(positions)
    return positions.reshape(sizes)


def reshape_to(rw: Rewriter, node: fx.Node, source: fx.Node, new: fx.Node, shape: tuple[int, ...]) -> fx.Node:
    """``new.reshape(...)`` to a layout's shape, row sizes left to the graph."""
    sizes = rw.flow.axes[node].sizes
    rows = [axis for axis, size in enumerate(sizes) if size is None]
    target: list[Any] = [-1 if size is None else shape[axis] for axis, size in enumerate(sizes)]
    if len(rows) > 1:
        given = [a for a, size in enumerate(rw.flow.axes[source].sizes) if size is None]
        if [rw.flow.axes[source].pairs[a] for a in given] != [rw.flow.axes[node].pairs[a] for a in rows]:
            raise Misaligned(node, source)
        for axis, own in zip(rows, given, strict=True):
            target[axis] = rw.graph.call_method("size", (new, own))
            target[axis].meta = dict(node.meta)
    made = rw.graph.create_node("call_method", "reshape", (new, *target), {}, node.name)
    made.meta = dict(node.meta)
    return made


def _move_same(rw: Rewriter, node: fx.Node, relation: Movement) -> fx.Node:
    source = relation.flows[0].source
    have = _source_layout(rw, source, rw.flow.axes[source].everything())
    if source.op == "get_attr" and rw.layouts[node].size:
        have = grid_around(rw.flow.axes[source].shape, relation.flows[0].index[rw.layouts[node]])
    operation = operation_of(node, rw.flow.values, rw.flow.module)
    natural = operation.run({source: torch.from_numpy(have.copy())}).numpy()
    back = np.empty(rw.flow.axes[source].count, dtype=np.int64)
    back[relation.flows[0].index] = np.arange(len(relation.flows[0].index))
    return rw.reorder(rw.call(node, {source: rw.read(source, have)}), back[natural], rw.layouts[node], node)


def _move_rows(rw: Rewriter, node: fx.Node, relation: Movement) -> fx.Node:
    source, layout = relation.flows[0].source, rw.layouts[node]
    given, own = rw.flow.axes[source], rw.flow.axes[node]
    shape = [1] * len(given.shape)
    for theirs, mine in zip(given.wide, own.wide, strict=True):
        shape[theirs] = layout.shape[mine]
    return rw.call(node, {source: rw.read(source, layout.reshape(shape))})


def _move_pick(rw: Rewriter, node: fx.Node, relation: Movement) -> fx.Node:
    """Slices and elements of channel axes: the call itself goes, its reading is a reorder."""
    flow, layout = relation.flows[0], rw.layouts[node]
    source, own, given = flow.source, rw.flow.axes[node], rw.flow.axes[flow.source]
    wanted = flow.index[layout]
    if own.pairs != given.pairs and [p for p in own.pairs if p[0] != p[1]] != [p for p in given.pairs if p[0] != p[1]]:
        raise Misaligned(node, source)
    if [s is None for s in own.sizes] == [s is None for s in given.sizes]:
        return _expanded(rw, node, rw.read(source, wanted))
    if source.op == "get_attr":
        return _select_of_parameter(rw, node, relation)
    have = rw.layouts[source]
    back = np.full(given.count, -1, dtype=np.int64)
    back[flow.index] = np.arange(len(flow.index))
    for axis in range(have.ndim):
        if given.sizes[axis] is None or have.ndim != layout.ndim + 1:
            continue
        for place in range(have.shape[axis]):
            natural = back[np.take(have, place, axis=axis)]
            if np.all(natural >= 0) and np.all(np.isin(layout, natural)):
                args = (rw.value(source), axis, place)
                new = rw.graph.create_node("call_method", "select", args, {}, node.name)
                new.meta = dict(node.meta)
                return rw.reorder(new, natural, layout, node)
    flat = wanted.reshape([*[1] * sum(s is None for s in given.sizes), -1])
    lead = next(i for i, s in enumerate(given.sizes) if s is not None)
    if any(s is None for s in given.sizes[lead:]):
        raise Misaligned(node, source)
    line = rw.graph.call_method("flatten", (rw.value(source), lead))
    line.meta = dict(node.meta)
    new = rw.reorder(line, have.reshape([*[1] * lead, -1]), flat, source)
    return reshape_to(rw, node, source, new, layout.shape)


def _expanded(rw: Rewriter, node: fx.Node, new: fx.Node) -> fx.Node:
    """Broadcast rows as the call does: equal in the examples, an axis of rows may have one row alone in a call."""
    sizes = rw.flow.axes[node].sizes
    rows = [axis for axis, size in enumerate(sizes) if size is None]
    if node.target not in ("expand", "expand_as", "broadcast_to", torch.broadcast_to) or not rows:
        return new
    asked: Any = node.args[1] if isinstance(node.args[1], tuple | list) else node.args[1:]
    given: dict[int, Any] = {}
    for axis in rows:
        if node.target == "expand_as":
            given[axis] = rw.graph.call_method("size", (rw.any_layout(node.args[1]), axis))  # type: ignore[arg-type]
        else:
            given[axis] = rw.env.get(asked[axis], asked[axis])
    if all(size == -1 for size in given.values()):
        return new
    wider = rw.graph.call_method("expand", (new, *(given.get(axis, -1) for axis in range(len(sizes)))))
    wider.meta = dict(node.meta)
    return wider


def _select_of_parameter(rw: Rewriter, node: fx.Node, relation: Movement) -> fx.Node:
    """One entry along some axes of a parameter (the weight of a relation): the parameter is cut along the others."""
    flow, layout = relation.flows[0], rw.layouts[node]
    given, own = rw.flow.axes[flow.source].shape, rw.flow.axes[node].shape
    wanted = flow.index[layout]
    places = np.unravel_index(wanted, given)
    for axes in combinations(range(len(given)), max(len(given) - len(own), 1)):
        rest = tuple(size for axis, size in enumerate(given) if axis not in axes)
        if rest == own and all(len(np.unique(places[axis])) == 1 for axis in axes):
            new = rw.read(flow.source, np.expand_dims(wanted, axes))
            for axis in reversed(axes):
                new = rw.graph.create_node("call_method", "select", (new, axis, 0), {}, node.name)
                new.meta = dict(node.meta)
            return new
    raise Misaligned(node)


def _move_cat(rw: Rewriter, node: fx.Node, relation: Movement) -> fx.Node:
    layout, axis = rw.layouts[node], relation.axis
    owner = np.full(layout.shape, -1, dtype=np.int64)
    for k, flow in enumerate(relation.flows):
        owner[flow.index[layout] >= 0] = k
    lines = np.moveaxis(owner, axis, 0).reshape(layout.shape[axis], -1)
    if np.any(lines != lines[:, :1]):
        # Where lines differ in how many channels they take of which part, no order helps.
        shares = np.sort(lines, axis=0)
        raise Misaligned(node, certain=bool(np.any(shares != shares[:, :1])))
    parts: list[tuple[fx.Node, Positions]] = []
    for k, columns in _runs(lines[:, 0]):
        source, part = relation.flows[k].source, relation.flows[k].index[np.take(layout, columns, axis=axis)]
        parts += [(source, np.take(part, run, axis=axis)) for run in _views(rw, source, part, axis)]
    if len(parts) > _MOST_PIECES + 2 * len(relation.flows):
        return _joined_then_reordered(rw, node, relation, lines[:, 0])
    return _joined(rw, node, [rw.read(*part) for part in parts], axis)


def _joined(rw: Rewriter, node: fx.Node, pieces: list[fx.Node], axis: int) -> fx.Node:
    if len(pieces) == 1:
        return pieces[0]
    new = rw.graph.create_node("call_function", torch.cat, (pieces, axis), {}, node.name)
    new.meta = dict(node.meta)
    return new


def _joined_then_reordered(rw: Rewriter, node: fx.Node, relation: Movement, owner: Positions) -> fx.Node:
    """Every operand is read once, in its own order, and the result is reordered at once: few calls, not hundreds."""
    layout, axis = rw.layouts[node], relation.axis
    pieces, held = [], []
    for k in np.unique(owner).tolist():
        source = relation.flows[k].source
        columns = np.flatnonzero(owner == k)
        part = relation.flows[k].index[np.take(layout, columns, axis=axis)]
        picks = None if source.op == "get_attr" else selection(rw.layouts[source], part)
        if picks is not None:
            in_place = np.argsort(picks[axis], kind="stable")
            columns, part = columns[in_place], np.take(part, in_place, axis=axis)
        pieces.append(rw.read(source, part))
        held.append(np.take(layout, columns, axis=axis))
    return rw.reorder(_joined(rw, node, pieces, axis), np.concatenate(held, axis=axis), layout, node)


def _runs(owner: Positions) -> list[tuple[int, Positions]]:
    cuts = np.flatnonzero(np.diff(owner)) + 1
    return [(int(owner[run[0]]), run) for run in np.split(np.arange(len(owner)), cuts)]


def _views(rw: Rewriter, source: fx.Node, part: Positions, axis: int) -> list[Positions]:
    """The columns of a part of a value, cut into few runs that are views where that is possible, else one copy."""
    columns = np.arange(part.shape[axis])
    if source.op != "get_attr":
        picks = selection(rw.layouts[source], part)
        if picks is not None:
            cuts = np.flatnonzero(np.diff(picks[axis]) != 1) + 1
            if len(cuts) < _MOST_PIECES:
                return np.split(columns, cuts)
    return [columns]


def _move_stack(rw: Rewriter, node: fx.Node, relation: Movement) -> fx.Node:
    layout, axis = rw.layouts[node], relation.axis
    parts = []
    for place in range(layout.shape[axis]):
        line = np.take(layout, place, axis=axis)
        flow = next((f for f in relation.flows if np.all(f.index[line] >= 0)), None)
        if flow is None:
            raise Misaligned(node)
        parts.append(rw.read(flow.source, flow.index[line]))
    new = rw.graph.create_node("call_function", torch.stack, (parts, axis), {}, node.name)
    new.meta = dict(node.meta)
    return new


_MOVE = {
    "entry": _move_entry, "reshape": _move_reshape, "same": _move_same, "rows": _move_rows, "pick": _move_pick,
    "cat": _move_cat, "stack": _move_stack, "place": _move_place,
}  # fmt: skip
