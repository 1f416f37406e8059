"""The state of a rewrite: reading values in a wanted layout, copying calls, cutting what the new graph stores."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Mask, Positions
from upscale_fx.channels.relations.products import reads_parameter
from upscale_fx.channels.rules.registry import call_of
from upscale_fx.compacting.rewrite.misaligned import Misaligned, raise_first
from upscale_fx.compacting.rewrite.origins import cut_origins, reads_digest
from upscale_fx.compacting.rewrite.parameters import cut_module, cut_tensor, lookup, narrow_inputs, place
from upscale_fx.compacting.rewrite.selection import grid_around, places_in, selection
from upscale_fx.compacting.rewrite.ties import owner_of, tie
from upscale_fx.compiled import functions
from upscale_fx.compiled.guards.failures import at_node
from upscale_fx.compiled.module import CompiledGNN, make_module, meta_with, stored_tensors
from upscale_fx.compiled.progress import advance
from upscale_fx.errors import PassError

#: Emits one node in its layout; None for what is made where it is read.
Emitter = Callable[["Rewriter", fx.Node, Any], fx.Node | None]


@dataclass
class Rewriter:
    """State of one rewrite: the new graph, and what stands where in it.

    ``widen`` allows contractions to read more than they need; ``storage`` gives the layouts of parameters that are read
    in several ways, others are stored as they are read.
    """

    flow: Dataflow
    kept: Mapping[fx.Node, Mask]
    layouts: dict[fx.Node, Positions]
    widen: bool = True
    storage: Mapping[str, Positions] = field(default_factory=dict)
    graph: fx.Graph = field(default_factory=fx.Graph)
    env: dict[fx.Node, fx.Node] = field(default_factory=dict)
    reads: dict[tuple[fx.Node, bytes, tuple[int, ...]], fx.Node] = field(default_factory=dict)
    parameters: dict[str, list[Positions]] = field(default_factory=dict)
    modules: dict[str, tuple[Positions | None, fx.Node]] = field(default_factory=dict)
    narrowed: dict[str, tuple[tuple[str, ...], Positions]] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    buffer_of: dict[bytes, str] = field(default_factory=dict)
    misaligned: list[Misaligned] = field(default_factory=list)
    emitters: Mapping[type, Emitter] = field(default_factory=dict)

    # Reading -----------------------------------------------------------------------------------------------------

    def read(self, node: fx.Node, wanted: Positions) -> fx.Node:
        """A value in a given layout, reordered if it has another."""
        key = (node, wanted.tobytes(), wanted.shape)
        if key not in self.reads:
            if node.op == "get_attr":
                self.reads[key] = self._read_parameter(node, wanted)
            elif reads_parameter(self.flow, node):
                self.reads[key] = self._remake(node, wanted)
            else:
                self.reads[key] = self.reorder(self.env[node], self.layouts[node], wanted, node)
        return self.reads[key]

    def value(self, node: fx.Node) -> fx.Node:
        """A value in its own layout."""
        return self.env[node] if node in self.env else self.read(node, self.layouts[node])

    def any_layout(self, node: fx.Node) -> fx.Node:
        """An argument of which rows, dtype and device are read, but no channel: in whatever layout it has."""
        if node in self.env or node.op == "get_attr" or node not in self.layouts:
            return self.env.get(node) or self.whole(node)
        return self.value(node)

    def _remake(self, node: fx.Node, wanted: Positions) -> fx.Node:
        """A part of a parameter, emitted where it is read, in the layout that is wanted there."""
        own = self.layouts[node]
        self.layouts[node] = wanted
        new = self.emitters[type(self.flow.relations[node])](self, node, self.flow.relations[node])
        self.layouts[node] = own
        assert new is not None
        return new

    def _read_parameter(self, node: fx.Node, wanted: Positions) -> fx.Node:
        target = str(node.target)
        self.parameters.setdefault(target, []).append(wanted)
        new = self.graph.get_attr(target)
        new.meta = dict(node.meta)
        return self.reorder(new, self.storage[target], wanted, node) if target in self.storage else new

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
        args = (new, axis, self._index(pick))
        new = self.graph.create_node("call_method", "index_select", args, {}, f"{old.name}_copy")
        self._mark(new, old, "copy")
        return new

    def _ragged_copy(self, new: fx.Node, have: Positions, wanted: Positions, old: fx.Node) -> fx.Node:
        """Other channels in every head: one gather over all of them."""
        sizes = self.flow.axes[old].sizes
        first = next(i for i, size in enumerate(sizes) if size is not None)
        if any(size is None for size in sizes[first:]):
            raise Misaligned(old)
        pick = places_in(have, wanted)
        if pick is None:
            raise Misaligned(old)
        args = (new, self._index(pick), first, tuple(wanted.shape[first:]))
        copied = self.graph.create_node("call_function", functions.gather_channels, args, {}, f"{old.name}_copy")
        self._mark(copied, old, "copy")
        return copied

    def _index(self, pick: Positions) -> fx.Node:
        index = self.graph.get_attr(self._buffer(pick))
        index.meta = {"module": "", "source": ""}
        return index

    def _buffer(self, pick: Positions) -> str:
        key = pick.tobytes()
        if key not in self.buffer_of:
            number = len(self.buffers)
            while hasattr(self.flow.module, f"reorder_{number}") or f"reorder_{number}" in self.buffers:
                number += 1
            self.buffers[f"reorder_{number}"] = torch.from_numpy(pick.copy())
            self.buffer_of[key] = f"reorder_{number}"
        return self.buffer_of[key]

    def _mark(self, new: fx.Node, old: fx.Node, kind: str) -> None:
        new.meta = {"module": old.meta.get("module", ""), "source": old.meta.get("source", ""), "reorder": kind}

    # Emitting ----------------------------------------------------------------------------------------------------

    def run(self, emitters: Mapping[type, Emitter]) -> None:
        """Emit every node; parts of parameters where they are read.

        Raises:
            Misaligned: a layout cannot be expressed; the first of all that cannot.
        """
        self.emitters = emitters
        for node in self.flow.nodes:
            advance()
            try:
                self._run(node)
            except Misaligned as problem:
                self.misaligned.append(problem)
                self.env[node] = self.graph.placeholder(f"{node.name}_misaligned")  # this graph will be given up
                self.env[node].meta = dict(node.meta)
            except Exception as error:
                at_node(error, node)
                raise
        raise_first(self.misaligned)

    def _run(self, node: fx.Node) -> None:
        if node.op == "output":
            self.graph.output(map_arg(node.args, self.whole)[0])
        elif node in self.flow.axes:
            if node in self.kept and not reads_parameter(self.flow, node):
                new = self._emit(node, self.emitters)
                if new is not None:
                    self.env[node] = new
        elif all(map(self._is_available, node.all_input_nodes)) and not self._is_tuple(node):
            self._emit_structure(node)

    def _emit(self, node: fx.Node, emitters: Mapping[type, Emitter]) -> fx.Node | None:
        relation = self.flow.relations[node]
        try:
            return emitters[type(relation)](self, node, relation)
        except Misaligned as problem:
            if not all(map(self._is_whole, (node, *relation.reads))):
                problem.reader = node
                raise
            self.keep_module_whole(node)
            return self.call(node, {})  # everything in place: the call as it was

    def keep_module_whole(self, node: fx.Node) -> None:
        """Raise Misaligned where another call of the same module has cut or permuted it already."""
        inner, _ = call_of(node, self.flow.values)
        known, other = self.modules.get(str(inner.target), (None, node)) if inner.op == "call_module" else (None, node)
        if known is not None and not np.array_equal(known, np.arange(self.flow.axes[other].shape[1])):
            raise Misaligned(other, node)

    def _is_whole(self, node: fx.Node) -> bool:
        return node.op == "get_attr" or np.array_equal(self.layouts[node], self.flow.axes[node].everything())

    def _emit_structure(self, node: fx.Node) -> None:
        if node.target in ("size", getattr):  # row counts and dtypes are the same in every layout
            self.env[node] = self.copy_call(node, self.any_layout)
        else:
            self.env[node] = self.copy_call(node, self.whole)

    def _is_tuple(self, node: fx.Node) -> bool:
        """Tuple-valued calls are copied when an element of theirs is."""
        return node.op != "placeholder" and isinstance(self.flow.values[node][0], tuple | list | dict)

    def _is_available(self, node: fx.Node) -> bool:
        """Whether a node was kept; what reads one that was not is dead."""
        if node in self.env or node.op == "get_attr" or (node in self.kept and reads_parameter(self.flow, node)):
            return True
        return (
            node not in self.flow.axes and self._is_tuple(node) and all(map(self._is_available, node.all_input_nodes))
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
        new = self.env.get(inner) if path and inner.op == "call_module" else None
        if new is None:
            new = self.copy_call(inner, lambda source: replaced[source] if source in replaced else self.whole(source))
        if path and inner.op == "call_module":  # a module is called once for all it returns
            self.env[inner] = new
        for key in reversed(path):
            new = self.graph.call_function(operator.getitem, (new, key))
            new.meta = dict(node.meta)
        return new

    # Finishing ---------------------------------------------------------------------------------------------------

    def shared_storage(self) -> dict[str, Positions]:
        """For every parameter read in more than one layout, one that holds all it needs; those of modules are whole."""
        found = {}
        for target, reads in self.parameters.items():
            shape = tuple(lookup(self.flow.module, target).shape)
            if owner_of(target, self.modules) is not None:
                found[target] = np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)
            elif len(reads) > 1:
                found[target] = grid_around(shape, np.concatenate([wanted.reshape(-1) for wanted in reads]))
        return found

    def _reads_apart(self) -> tuple[tuple[str, str], ...]:
        """Parameters that are read in several layouts, each with a digest of the original places of what is read."""
        return tuple(
            (name, reads_digest(self.flow.module, name, self.parameters[name])) for name in sorted(self.storage)
        )

    def module(self) -> CompiledGNN:
        """The module of the new graph, its parameters and buffers cut."""
        root, old = nn.Module(), self.flow.module
        persistent = set(stored_tensors(old))
        layouts = {target: self.storage.get(target, reads[0]) for target, reads in self.parameters.items()}
        for target, layout in layouts.items():
            place(root, target, cut_tensor(lookup(old, target), layout), target in persistent)
        for target, (channels, _) in self.modules.items():
            module = cut_module(old.get_submodule(target), channels)
            if target in self.narrowed:
                narrow_inputs(module, *self.narrowed[target])
            place(root, target, module)
        device = next((p.device for p in old.parameters()), torch.device("cpu"))
        for name, pick in self.buffers.items():
            root.register_buffer(name, pick.to(device), persistent=False)
        self.graph.lint()
        modules = {target: channels for target, (channels, _) in self.modules.items()}
        origins = cut_origins(old, layouts, modules, self.narrowed)
        tie(root, old, origins)
        meta = meta_with(old, origins=origins, reads=self._reads_apart())
        return make_module(root, self.graph, meta, old.training, like=old)
