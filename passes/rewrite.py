"""Rewrite a graph to given layouts: every value holds only the channels it keeps, in the chosen order.

Operations are emitted in the form that fits their layouts, parameters are cut to what is read of them, and where a reader
wants other channels, or another order, than a value has, a reorder is inserted: a view (``narrow``) where they are
contiguous, else a copy (``index_select``). Every step is checked on positions: what cannot be expressed raises
:class:`Misaligned`, upon which the caller gives the values concerned less freedom and starts again.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from upscale_fx.channels import Barrier, Contraction, Flow, Mask, Movement, Pointwise, Positions, Reduction, Relation
from upscale_fx.channels import Source
from upscale_fx.dataflow import Dataflow
from upscale_fx.errors import PassError
from upscale_fx.module import CompiledGNN, make_module
from upscale_fx.rules.registry import call_of, operation_of

#: Moving one number to memory and back costs about as much as this many multiply-adds.
_COPY_COST = 24
#: A concatenation copies anyway; up to this many pieces it may also reorder.
_MOST_PIECES = 16


class Misaligned(Exception):  # noqa: N818 - caught by the caller, never seen by users
    """The layouts of these values cannot be expressed."""

    def __init__(self, *nodes: fx.Node) -> None:
        super().__init__(", ".join(node.name for node in nodes))
        self.nodes = nodes


@dataclass
class Rewriter:
    """State of one rewrite: the new graph, and what stands where in it."""

    flow: Dataflow
    kept: Mapping[fx.Node, Mask]
    layouts: Mapping[fx.Node, Positions]
    graph: fx.Graph = field(default_factory=fx.Graph)
    env: dict[fx.Node, fx.Node] = field(default_factory=dict)
    calls: dict[fx.Node, fx.Node] = field(default_factory=dict)
    reads: dict[tuple[fx.Node, bytes, tuple[int, ...]], fx.Node] = field(default_factory=dict)
    stored: dict[str, list[tuple[fx.Node, Positions]]] = field(default_factory=dict)
    modules: dict[str, tuple[Positions | None, fx.Node]] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)

    # Reading -----------------------------------------------------------------------------------------------------

    def read(self, node: fx.Node, wanted: Positions) -> fx.Node:
        """A value in a given layout, reordered if it has another."""
        key = (node, wanted.tobytes(), wanted.shape)
        if key not in self.reads:
            if node.op == "get_attr":
                self.reads[key] = self._read_parameter(node, wanted)
            else:
                self.reads[key] = self.reorder(self.env[node], self.layouts[node], wanted, node)
        return self.reads[key]

    def _read_parameter(self, node: fx.Node, wanted: Positions) -> fx.Node:
        new = self.graph.get_attr(str(node.target))
        new.meta = dict(node.meta)
        self.stored.setdefault(str(node.target), []).append((new, wanted))
        return new

    def reorder(self, new: fx.Node, have: Positions, wanted: Positions, old: fx.Node) -> fx.Node:
        """Bring a new node from one layout into another of the same rank."""
        if have.shape == wanted.shape and np.array_equal(have, wanted):
            return new
        picks = selection(have, wanted)
        if picks is None:
            return self._ragged_copy(new, have, wanted, old)
        for axis, pick in enumerate(picks):
            if np.array_equal(pick, np.arange(have.shape[axis])):
                continue
            if len(pick) and np.array_equal(pick, np.arange(pick[0], pick[0] + len(pick))):
                args = (new, axis, int(pick[0]), len(pick))
                new = self.graph.create_node("call_function", torch.narrow, args, {}, f"{old.name}_view")
                self._mark(new, old, "view")
            else:
                new = self._copy(new, axis, pick, old)
        return new

    def _copy(self, new: fx.Node, axis: int, pick: Positions, old: fx.Node) -> fx.Node:
        name = self._buffer(pick)
        index = self.graph.get_attr(name)
        index.meta = {"module": "", "source": ""}
        new = self.graph.create_node("call_method", "index_select", (new, axis, index), {}, f"{old.name}_copy")
        self._mark(new, old, "copy")
        return new

    def _ragged_copy(self, new: fx.Node, have: Positions, wanted: Positions, old: fx.Node) -> fx.Node:
        """Other channels in every head: flatten, gather, restore the heads."""
        sizes = self.flow.axes[old].sizes
        first = next(i for i, size in enumerate(sizes) if size is not None)
        if any(size is None for size in sizes[first:]):
            raise Misaligned(old)
        place = {p: i for i, p in enumerate(have.reshape(-1).tolist())}
        try:
            pick = np.array([place[p] for p in wanted.reshape(-1).tolist()], dtype=np.int64)
        except KeyError:
            raise Misaligned(old) from None
        flat = self.graph.call_method("flatten", (new, first))
        self._mark(flat, old, None)
        copied = self._copy(flat, first, pick, old)
        shaped = self.graph.call_method("unflatten", (copied, first, tuple(wanted.shape[first:])))
        self._mark(shaped, old, None)
        return shaped

    def _buffer(self, pick: Positions) -> str:
        for name, known in self.buffers.items():
            if np.array_equal(known.numpy(), pick):
                return name
        number = len(self.buffers)
        while hasattr(self.flow.module, f"reorder_{number}") or f"reorder_{number}" in self.buffers:
            number += 1
        self.buffers[f"reorder_{number}"] = torch.from_numpy(pick.copy())
        return f"reorder_{number}"

    def _mark(self, new: fx.Node, old: fx.Node, kind: str | None) -> None:
        new.meta = {"module": old.meta.get("module", ""), "source": old.meta.get("source", ""), "of": old.name}
        if kind:
            new.meta["reorder"] = kind

    # Emitting ----------------------------------------------------------------------------------------------------

    def run(self) -> CompiledGNN:
        """Emit every node and cut the parameters."""
        for node in self.flow.nodes:
            if node.op == "output":
                args = map_arg(node.args, self.whole)
                self.graph.output(args[0])
            elif node in self.flow.axes:
                if node in self.kept:
                    emit = _EMIT[type(self.flow.relations[node])]
                    new = emit(self, node, self.flow.relations[node])
                    if new is not None:
                        self.env[node] = new
            elif not isinstance(self.flow.values[node][0], tuple | list | dict) or node.op == "placeholder":
                self._emit_structure(node)
        return self._finish()

    def _emit_structure(self, node: fx.Node) -> None:
        if any(source not in self.env and source.op != "get_attr" for source in node.all_input_nodes):
            if all(s in self.env or s in self.flow.axes or isinstance(self.flow.values[s][0], tuple | list | dict)
                   for s in node.all_input_nodes) and not self._tuple_inputs_alive(node):  # fmt: skip
                return
        if node.target in ("size", getattr) and node.args[0] in self.flow.axes and node.args[0].op != "get_attr":
            self.env[node] = self.copy_call(node, lambda source: self.env[source])
        else:
            self.env[node] = self.copy_call(node, self.whole)

    def _tuple_inputs_alive(self, node: fx.Node) -> bool:
        return all(
            source in self.env or (source not in self.flow.axes and source.op != "placeholder")
            for source in node.all_input_nodes
        )

    def whole(self, node: fx.Node) -> fx.Node:
        """An argument that must be there entirely and in place."""
        if node in self.flow.axes:
            if node.op != "get_attr" and node not in self.kept:
                raise PassError(f"{node.name} is read whole but was dropped")
            return self.read(node, self.flow.axes[node].everything())
        if node not in self.env:  # a tuple-valued call
            self.env[node] = self.copy_call(node, self.whole)
        return self.env[node]

    def copy_call(self, node: fx.Node, argument: Callable[[fx.Node], fx.Node], target: Any = None) -> fx.Node:
        """The same call with its node arguments mapped."""
        args, kwargs = map_arg(node.args, argument), map_arg(node.kwargs, argument)
        name = node.name if node.op != "placeholder" else str(node.target)
        new = self.graph.create_node(node.op, target or node.target, args, kwargs, name)
        new.meta = dict(node.meta)
        if new.op == "call_module":
            self.modules.setdefault(str(new.target), (None, node))
        return new

    def call(self, node: fx.Node, replaced: Mapping[fx.Node, fx.Node]) -> fx.Node:
        """The call behind ``node`` (through getitem of a tuple) with some arguments replaced, the others whole."""
        inner, path = call_of(node, self.flow.values)
        new = self.copy_call(inner, lambda source: replaced[source] if source in replaced else self.whole(source))
        for key in reversed(path):
            new = self.graph.call_function(operator.getitem, (new, key))
            new.meta = dict(node.meta)
        return new

    # Finishing ---------------------------------------------------------------------------------------------------

    def _finish(self) -> CompiledGNN:
        root = nn.Module()
        old = self.flow.module
        persistent = set(old.state_dict())
        for target, reads in self.stored.items():
            value = _lookup(old, target)
            layout = self._store(reads, tuple(value.shape), target)
            cut = value.detach().reshape(-1)[torch.from_numpy(layout.reshape(-1)).to(value.device)].reshape(layout.shape)
            if isinstance(value, nn.Parameter):
                cut = nn.Parameter(cut.clone(), requires_grad=value.requires_grad)
            _place(root, target, cut.clone() if not isinstance(cut, nn.Parameter) else cut, target in persistent)
        for target, (channels, node) in self.modules.items():
            _place(root, target, _cut_module(old.get_submodule(target), channels, node))
        device = next((p.device for p in old.parameters()), torch.device("cpu"))
        for name, pick in self.buffers.items():
            root.register_buffer(name, pick.to(device), persistent=False)
        self.graph.lint()
        return make_module(root, self.graph, old.meta, old.training)

    def _store(self, reads: list[tuple[fx.Node, Positions]], shape: tuple[int, ...], target: str) -> Positions:
        """The layout a parameter is stored in: as read, if all read it alike; else what all need, cut on each read."""
        if len(reads) == 1:
            return reads[0][1]
        everything = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
        lists = [
            np.unique(np.concatenate([np.unravel_index(w.reshape(-1), shape)[axis] for _, w in reads]))
            for axis in range(len(shape))
        ]
        have = everything[np.ix_(*lists)] if shape else everything
        for node, wanted in reads:
            users = list(node.users)
            with self.graph.inserting_after(node):
                anchor = node
                picks = selection(have, wanted)
                if picks is None:
                    raise PassError(f"parameter {target} is read in a layout that is no grid")
                for axis, pick in enumerate(picks):
                    if np.array_equal(pick, np.arange(have.shape[axis])):
                        continue
                    with self.graph.inserting_after(anchor):
                        if np.array_equal(pick, np.arange(pick[0], pick[0] + len(pick))):
                            anchor = self.graph.call_function(torch.narrow, (anchor, axis, int(pick[0]), len(pick)))
                            self._mark(anchor, node, "view")
                        else:
                            index = self.graph.get_attr(self._buffer(pick))
                            index.meta = {"module": "", "source": ""}
                            with self.graph.inserting_after(index):
                                anchor = self.graph.call_method("index_select", (anchor, axis, index))
                            self._mark(anchor, node, "copy")
            for user in users:
                user.replace_input_with(node, anchor)
        return have


def selection(have: Positions, wanted: Positions) -> list[Positions] | None:
    """Per axis the places of ``have`` to pick so that it becomes ``wanted``; None if that is not a grid."""
    if have.ndim != wanted.ndim:
        return None
    sorter = np.argsort(have, axis=None, kind="stable")
    flat = have.reshape(-1)[sorter]
    found = np.searchsorted(flat, wanted.reshape(-1))
    if np.any(found >= len(flat)) or not np.array_equal(flat[np.minimum(found, len(flat) - 1)], wanted.reshape(-1)):
        return None
    coordinates = np.unravel_index(sorter[found], have.shape)
    picks = []
    for axis in range(have.ndim):
        along = np.moveaxis(coordinates[axis].reshape(wanted.shape), axis, 0).reshape(wanted.shape[axis], -1)
        if along.size and np.any(along != along[:, :1]):
            return None
        picks.append(along[:, 0].astype(np.int64) if along.size else np.empty(0, dtype=np.int64))
    return picks


# One function per relation ----------------------------------------------------------------------------------------


def _emit_source(rw: Rewriter, node: fx.Node, relation: Relation) -> fx.Node | None:
    if node.op == "get_attr":
        return None  # made where it is read
    if node.op == "placeholder":
        return rw.copy_call(node, rw.whole)
    # new_zeros and the like look at nothing but dtype and device; an element of a tuple input is what it is
    inner, _ = call_of(node, rw.flow.values)
    if inner.op == "placeholder":
        return rw.copy_call(node, rw.whole)
    return rw.copy_call(node, lambda source: rw.env[source] if source in rw.flow.axes else rw.whole(source))


def _emit_barrier(rw: Rewriter, node: fx.Node, relation: Barrier) -> fx.Node:
    inner, _ = call_of(node, rw.flow.values)
    if inner is not node:
        return rw.copy_call(node, rw.whole)
    return rw.call(node, {})


def _emit_pointwise(rw: Rewriter, node: fx.Node, relation: Pointwise) -> fx.Node:
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
    known, other = rw.modules.get(target, (None, node))
    if known is not None and not np.array_equal(known, channels):
        raise Misaligned(node, other)  # one module, two layouts
    rw.modules[target] = (channels, node)


def _emit_contraction(rw: Rewriter, node: fx.Node, relation: Contraction) -> fx.Node:
    layout = rw.layouts[node]
    outputs = rw.flow.axes[node].shape[-1]
    inputs = rw.flow.axes[relation.x].shape[-1]
    lead, out = np.divmod(layout, outputs)
    rows = out.reshape(-1, layout.shape[-1])
    leads = lead.reshape(-1, layout.shape[-1])
    if np.any(rows != rows[:1]) or np.any(leads != leads[:, :1]):
        raise Misaligned(node)
    wanted = dict(relation.need(_mask_of(layout, len(rw.kept[node])), rw.flow.nonzero))[relation.x]
    x_layout = _choose_read(rw, relation, wanted, leads[:, 0], inputs, len(rows[0]))
    columns = (x_layout % inputs).reshape(-1, x_layout.shape[-1])[0]
    grid = rows[0][:, None] * inputs + columns[None]
    if relation.transposed:
        grid = (columns[:, None] * outputs + rows[0][None]).astype(np.int64)
    replaced = {relation.x: rw.read(relation.x, x_layout), relation.weight: rw.read(relation.weight, grid)}
    if relation.bias is not None:
        replaced[relation.bias] = rw.read(relation.bias, rows[0].copy())
    return rw.call(node, replaced)


def _mask_of(layout: Positions, count: int) -> Mask:
    mask = np.zeros(count, dtype=bool)
    mask[layout.reshape(-1)] = True
    return mask


def _choose_read(
    rw: Rewriter, relation: Contraction, wanted: Mask, leads: Positions, inputs: int, outputs: int
) -> Positions:
    """Which channels of ``x`` a contraction reads: a view if they are contiguous, else a copy or a wider read."""
    if relation.x.op == "get_attr":
        have = rw.flow.axes[relation.x].everything()
    else:
        have = rw.layouts[relation.x]
    if relation.batch > 1:
        columns = [c for c in _unique_in_order((have % inputs).reshape(-1)) if wanted[leads[0] * inputs + c]]
        return (leads[:, None] * inputs + np.array(columns, dtype=np.int64)[None]).reshape(
            *have.shape[: have.ndim - 1][: have.ndim - 2], len(leads), len(columns)
        ) if have.ndim > 1 else np.array(columns)  # fmt: skip
    axis = have.ndim - 1
    line = have.reshape(-1)
    places = np.flatnonzero(wanted[line])
    narrow = line[places]
    is_view = len(places) == int(places[-1] - places[0]) + 1
    extra = len(line) - len(places)
    weight_is_stored = relation.weight.op == "get_attr"
    if not is_view and weight_is_stored and extra * outputs < _COPY_COST * len(places):
        narrow = line
    shape = [1] * have.ndim
    shape[axis] = len(narrow)
    return narrow.reshape(shape)


def _unique_in_order(values: Positions) -> list[int]:
    return list(dict.fromkeys(values.tolist()))


def _emit_reduction(rw: Rewriter, node: fx.Node, relation: Reduction) -> fx.Node:
    source = relation.source
    have = rw.layouts[source]
    held = relation.index[have]
    channel = tuple(a for a in relation.axes if rw.flow.axes[source].shape[a] > 1)
    first = held
    for axis in channel:
        first = np.take(first, [0], axis=axis)
    if np.any(held != first):
        raise Misaligned(source)
    natural = first if relation.keep else first.reshape([s for a, s in enumerate(first.shape) if a not in relation.axes])
    before = int(np.prod([rw.flow.axes[source].shape[a] for a in channel]))
    after = int(np.prod([have.shape[a] for a in channel]))
    if relation.how == "max" and before != after:
        raise Misaligned(source)
    if relation.how == "mean" and before != after:
        total = rw.graph.call_method("sum", (rw.env[source], list(relation.axes), relation.keep), name=f"{node.name}_sum")
        total.meta = dict(node.meta)
        new = rw.graph.create_node("call_function", operator.truediv, (total, before), {}, node.name)
        new.meta = dict(node.meta)
    else:
        new = rw.call(node, {source: rw.env[source]})
    return rw.reorder(new, natural, rw.layouts[node], node)


def _emit_movement(rw: Rewriter, node: fx.Node, relation: Movement) -> fx.Node:
    return _MOVE[relation.how](rw, node, relation)


def _move_entry(rw: Rewriter, node: fx.Node, relation: Movement) -> fx.Node:
    return rw.read(relation.flows[0].source, rw.layouts[node])


def _source_layout(rw: Rewriter, source: fx.Node, fallback: Positions) -> Positions:
    """The layout a source has; a parameter has whichever is asked."""
    return fallback if source.op == "get_attr" else rw.layouts[source]


def _move_reshape(rw: Rewriter, node: fx.Node, relation: Movement) -> fx.Node:
    source, layout = relation.flows[0].source, rw.layouts[node]
    given = rw.flow.axes[source]
    flat = len(given.wide) <= 1
    asked = _as_shape(given.shape, given.wide, layout.reshape(-1)) if flat else given.everything()
    have = _source_layout(rw, source, asked)
    if np.array_equal(have.reshape(-1), layout.reshape(-1)):
        return _reshape(rw, node, source, rw.read(source, have), layout.shape)
    if flat:
        return _reshape(rw, node, source, rw.read(source, asked), layout.shape)
    wide = rw.flow.axes[node].wide
    if len(wide) > 1:
        raise Misaligned(node, source)
    natural = _as_shape(rw.flow.axes[node].shape, wide, have.reshape(-1))
    new = _reshape(rw, node, source, rw.read(source, have), natural.shape)
    return rw.reorder(new, natural, layout, node)


def _as_shape(shape: tuple[int, ...], wide: list[int], positions: Positions) -> Positions:
    sizes = [1] * len(shape)
    if wide:
        sizes[wide[0]] = len(positions)
    return positions.reshape(sizes)


def _reshape(rw: Rewriter, node: fx.Node, source: fx.Node, new: fx.Node, shape: tuple[int, ...]) -> fx.Node:
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
        return rw.read(source, wanted)
    if source.op == "get_attr":
        raise Misaligned(node)
    have = rw.layouts[source]
    back = np.full(given.count, -1, dtype=np.int64)
    back[flow.index] = np.arange(len(flow.index))
    for axis in range(have.ndim):
        if given.sizes[axis] is None or have.ndim != layout.ndim + 1:
            continue
        for place in range(have.shape[axis]):
            natural = back[np.take(have, place, axis=axis)]
            if np.all(natural >= 0) and np.all(np.isin(layout, natural)):
                new = rw.graph.create_node("call_function", torch.select, (rw.env[source], axis, place), {}, node.name)
                new.meta = dict(node.meta)
                return rw.reorder(new, natural, layout, node)
    flat = wanted.reshape([*[1] * sum(s is None for s in given.sizes), -1])
    lead = next(i for i, s in enumerate(given.sizes) if s is not None)
    if any(s is None for s in given.sizes[lead:]):
        raise Misaligned(node, source)
    line = rw.graph.call_method("flatten", (rw.env[source], lead))
    line.meta = dict(node.meta)
    new = rw.reorder(line, have.reshape([*[1] * lead, -1]), flat, source)
    return _reshape(rw, node, source, new, layout.shape)


def _move_cat(rw: Rewriter, node: fx.Node, relation: Movement) -> fx.Node:
    layout, axis = rw.layouts[node], relation.axis
    owner = np.full(layout.shape, -1, dtype=np.int64)
    for k, flow in enumerate(relation.flows):
        owner[flow.index[layout] >= 0] = k
    lines = np.moveaxis(owner, axis, 0).reshape(layout.shape[axis], -1)
    if np.any(lines != lines[:, :1]):
        raise Misaligned(node)
    pieces = []
    for k, columns in _runs(lines[:, 0]):
        part = relation.flows[k].index[np.take(layout, columns, axis=axis)]
        pieces += _views(rw, relation.flows[k].source, part, axis)
    if len(pieces) == 1:
        return pieces[0]
    new = rw.graph.create_node("call_function", torch.cat, (pieces, axis), {}, node.name)
    new.meta = dict(node.meta)
    return new


def _runs(owner: Positions) -> list[tuple[int, Positions]]:
    cuts = np.flatnonzero(np.diff(owner)) + 1
    return [(int(owner[run[0]]), run) for run in np.split(np.arange(len(owner)), cuts)]


def _views(rw: Rewriter, source: fx.Node, part: Positions, axis: int) -> list[fx.Node]:
    """Read part of a value as few views where that is possible, else as one copy."""
    if source.op != "get_attr":
        picks = selection(rw.layouts[source], part)
        if picks is not None:
            cuts = np.flatnonzero(np.diff(picks[axis]) != 1) + 1
            if len(cuts) < _MOST_PIECES:
                return [
                    rw.read(source, np.take(part, run, axis=axis))
                    for run in np.split(np.arange(part.shape[axis]), cuts)
                ]
    return [rw.read(source, part)]


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
    "cat": _move_cat, "stack": _move_stack,
}  # fmt: skip
_EMIT: dict[type, Callable[[Rewriter, fx.Node, Any], fx.Node | None]] = {
    Source: _emit_source, Barrier: _emit_barrier, Pointwise: _emit_pointwise, Contraction: _emit_contraction,
    Reduction: _emit_reduction, Movement: _emit_movement,
}  # fmt: skip


# Parameters and modules -------------------------------------------------------------------------------------------


def _lookup(root: nn.Module, target: str) -> Tensor:
    path, _, name = target.rpartition(".")
    value: Tensor = getattr(root.get_submodule(path), name)
    return value


def _place(root: nn.Module, target: str, value: Any, persistent: bool = True) -> None:
    *path, name = target.split(".")
    owner = root
    for part in path:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    if isinstance(value, nn.Parameter):
        owner.register_parameter(name, value)
    elif isinstance(value, Tensor):
        owner.register_buffer(name, value, persistent=persistent)
    else:
        owner.add_module(name, value)


def _cut_module(module: nn.Module, channels: Positions | None, node: fx.Node) -> nn.Module:
    """A copy of a per-channel module (batch norm) for some of its channels."""
    new = copy.deepcopy(module)
    if channels is None:
        return new
    pick = torch.from_numpy(channels.copy())
    for name, parameter in list(new._parameters.items()):
        if parameter is not None:
            cut = parameter.detach()[pick.to(parameter.device)].clone()
            new._parameters[name] = nn.Parameter(cut, requires_grad=parameter.requires_grad)
    for name, buffer in list(new._buffers.items()):
        if buffer is not None and buffer.dim() == 1:
            new._buffers[name] = buffer[pick.to(buffer.device)].clone()
    new.num_features = len(channels)  # type: ignore[assignment]
    return new
