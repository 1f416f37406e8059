"""The GraphModule that upscale_fx hands out: it pickles, knows its inputs, and refuses a mode it was not traced in."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from upscale_fx.compiled.deferred_code import DeferredCode
from upscale_fx.compiled.functions import ByMode
from upscale_fx.compiled.inputs import ModelInputs
from upscale_fx.errors import ModeError

# What GraphModule makes itself from the graph, so what a pickle need not hold.
_DERIVED = ("_graph", "_code", "_lineno_map", "_prologue_start", "_replace_hooks", "_create_node_hooks",
            "_erase_node_hooks", "_deepcopy_hooks", "_wrapped_call")  # fmt: skip


# What of a graph's ``meta`` is never changed, only replaced, so that copies can share it.
_REPLACED = ("plain", "origins")


class CompiledGNN(DeferredCode):
    """A GNN as an FX graph.

    ``meta`` holds what passes and reports need:
        ``inputs``: the :class:`ModelInputs` it was traced with;
        ``mode``: None, or the only mode (``"eval"``) the graph is right for, with the reason in ``mode_reason``;
        ``report``: what was removed so far, one entry per consumer;
        ``precision``: what a cast to another dtype changes;
        ``origins``: where the entries of its parameters come from, of those that were cut or folded into others;
        ``plain``: after fusing, the graph before it, which is what channel analyses read (see :func:`plain`).
    """

    @property
    def inputs(self) -> ModelInputs:
        """The arguments this graph takes."""
        inputs: ModelInputs = self.meta["inputs"]
        return inputs

    def train(self, mode: bool = True) -> CompiledGNN:
        """Switch dropout and batch norm; ModeError where the model computes something else in that mode."""
        if mode and self.__dict__.get("meta", {}).get("mode") == "eval":
            raise ModeError(f"this graph was traced for eval() only and cannot be trained: {self.meta['mode_reason']}")
        return super().train(mode)

    def __reduce__(self) -> tuple[Any, ...]:
        # FX's own pickling re-traces generated code, which PyG functions do not survive.
        body = {key: value for key, value in self.__dict__.items() if key not in _DERIVED}
        return _rebuild, (_serialize(self.graph), body)

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledGNN:
        # FX's own deep copy forgets which buffers are not persistent.
        for key in _REPLACED:
            if key in self.meta:
                memo[id(self.meta[key])] = self.meta[key]
        body = _copied_fields(self, memo)
        root = nn.Module()
        root.__dict__.update(body)
        return make_module(root, copied_graph(self.graph), body["meta"], body["training"])


def _copied_fields(module: nn.Module, memo: dict[int, Any]) -> dict[str, Any]:
    """Deep copies of all that a module holds; the containers in which FX keeps parameters are copied faster."""
    fields: dict[str, Any] = {}
    for key, value in module.__dict__.items():
        if key == "_modules":
            fields[key] = type(value)((name, _copied_container(part, memo)) for name, part in value.items())
        elif key not in _DERIVED:
            empty = type(value) in (dict, set, OrderedDict) and not value
            fields[key] = type(value)() if empty else copy.deepcopy(value, memo)
    return fields


def _copied_container(module: Any, memo: dict[int, Any]) -> Any:
    if type(module) is not nn.Module or id(module) in memo:
        return copy.deepcopy(module, memo)
    new = memo[id(module)] = nn.Module.__new__(nn.Module)
    new.__dict__.update(_copied_fields(module, memo))
    return new


def copied_graph(graph: fx.Graph) -> fx.Graph:
    """A graph of the same calls, with the same names."""
    new = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        copied = new.create_node(
            node.op, node.target, name=node.name
        )  # what comes as an argument here is looked through
        if node.args:
            copied.args = fx.node.map_arg(node.args, nodes.__getitem__)
        if node.kwargs:
            copied.kwargs = fx.node.map_arg(node.kwargs, nodes.__getitem__)
        copied.meta.update(node.meta)
        nodes[node] = copied
    return new


class _Reference:
    """A node inside pickled arguments, by its place in the graph."""

    __slots__ = ("place",)

    def __init__(self, place: int) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return _Reference, (self.place,)


@dataclass(frozen=True)
class _Format:
    """Stands for one of torch's memory formats, which the protocol of ``torch.save`` cannot store."""

    name: str


def _serialize(graph: fx.Graph) -> list[tuple[Any, ...]]:
    place = {node: i for i, node in enumerate(graph.nodes)}

    def refer(leaf: fx.Node | torch.memory_format) -> _Reference | _Format:
        return _Reference(place[leaf]) if isinstance(leaf, fx.Node) else _Format(str(leaf).removeprefix("torch."))

    kinds = (fx.Node, torch.memory_format)
    return [
        (node.op, node.name, node.target, _map(node.args, kinds, refer), _map(node.kwargs, kinds, refer), node.meta)
        for node in graph.nodes
    ]


def _map(value: Any, kind: tuple[type, ...], function: Callable[[Any], Any]) -> Any:
    """Map over nested arguments; FX's own map leaves foreign leaves such as _Reference alone, but not their mapping."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(v, kind, function) for v in value))
    if isinstance(value, tuple | list):  # FX has list and tuple types of its own; plain ones pickle
        plain = tuple if isinstance(value, tuple) else list
        return plain(_map(v, kind, function) for v in value)
    if isinstance(value, dict):
        return {k: _map(v, kind, function) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(*(_map(v, kind, function) for v in (value.start, value.stop, value.step)))
    return value


def _rebuild(records: list[tuple[Any, ...]], body: dict[str, Any]) -> CompiledGNN:
    graph = fx.Graph()
    nodes: list[fx.Node] = []

    def resolve(leaf: _Reference | _Format) -> fx.Node | torch.memory_format:
        return nodes[leaf.place] if isinstance(leaf, _Reference) else getattr(torch, leaf.name)

    kinds = (_Reference, _Format)
    for op, name, target, args, kwargs, meta in records:
        node = graph.create_node(op, target, _map(args, kinds, resolve), _map(kwargs, kinds, resolve), name)
        node.meta = meta
        nodes.append(node)
    root = nn.Module()
    root.__dict__.update(body)
    return make_module(root, graph, body["meta"], body["training"])


def all_nodes(gm: fx.GraphModule) -> list[fx.Node]:
    """The nodes of a graph and of the graphs it calls."""
    return [node for part in gm.modules() if isinstance(part, fx.GraphModule) for node in part.graph.nodes]


def remember_plain(gm: CompiledGNN) -> None:
    """Note the graph as it is now: what is fused from it can be analysed and pruned again by it."""
    gm.meta["plain"] = _serialize(gm.graph)


def plain(gm: CompiledGNN) -> CompiledGNN:
    """The graph before its message passing was fused, over the same parameters; a graph never fused as it is."""
    if "plain" not in gm.meta:
        return gm
    body = {key: value for key, value in gm.__dict__.items() if key not in _DERIVED}
    body["meta"] = {key: value for key, value in gm.meta.items() if key != "plain"}
    return _rebuild([(*record[:-1], dict(record[-1])) for record in gm.meta["plain"]], body)


def make_module(root: nn.Module, graph: fx.Graph, meta: dict[str, Any], training: bool) -> CompiledGNN:
    """A CompiledGNN over what the graph uses of ``root``; buffers not the model's own stay out of state_dict."""
    module = _made_of(root, graph, meta)
    only_eval = meta.get("mode") == "eval"
    for part in module.modules():  # set directly: what FX makes is born in train mode; layers keep a mode of their own
        if part is module or type(part) is nn.Module or isinstance(part, ByMode) or only_eval:
            part.training = training and not only_eval
    return module


def over_same_parameters(gm: CompiledGNN, graph: fx.Graph) -> CompiledGNN:
    """Another graph over the very parameters, buffers and modules of ``gm`` that it uses: to be analysed only."""
    module = _made_of(gm, graph, gm.meta)
    module.training = gm.training
    return module


def _made_of(root: nn.Module, graph: fx.Graph, meta: dict[str, Any]) -> CompiledGNN:
    persistent = set(root.state_dict())
    module = CompiledGNN(root, graph, "CompiledGNN")
    for op, _, target, *_ in meta.get("plain", ()):
        if op in ("get_attr", "call_module"):
            _carry_over(root, module, target)
    for path, owner in module.named_modules():
        for name, _ in owner.named_buffers(recurse=False):
            full = f"{path}.{name}" if path else name
            if full not in persistent:
                owner._non_persistent_buffers_set.add(name)
    module.meta = dict(meta)
    return module


def _carry_over(root: nn.Module, module: nn.Module, target: str) -> None:
    """Let a module hold what only its plain graph reads (a dropout that fusing found to be none)."""
    *path, name = target.split(".")
    for part in path:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        root, module = getattr(root, part), getattr(module, part)
    if hasattr(module, name):
        return
    value = getattr(root, name)
    if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
        module.register_buffer(name, value)
    else:
        setattr(module, name, value)


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of parameters and persistent buffers, those that modules share counted once."""
    held = [value for value in module.state_dict(keep_vars=True).values() if isinstance(value, torch.Tensor)]
    return sum(value.numel() * value.element_size() for value in {id(value): value for value in held}.values())


def call_by_name(model: nn.Module, inputs: ModelInputs, arguments: Mapping[str, Any], quiet: bool = False) -> Any:
    """Call a model, or a graph made of it, with arguments by the names they have in the graph.

    ``quiet`` calls ``forward`` itself: a GraphModule's own call prints a traceback where it fails.
    """
    args, kwargs = ([], arguments) if isinstance(model, CompiledGNN) else inputs.bind(arguments)
    return (model.forward if quiet else model)(*args, **kwargs)


#: What ``meta`` of a graph says that is right in ``eval()`` only, because running statistics were taken for constants.
FOR_INFERENCE = {
    "mode": "eval",
    "mode_reason": "it was optimized with inference=True, which takes dropout and running statistics as they are in "
    "eval(); optimize without it to train",
}
