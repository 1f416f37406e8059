"""The GraphModule that upscale_fx returns: it can be pickled, knows its inputs, and refuses a mode it cannot run in."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from torch import fx, nn

from upscale_fx.compiled.deferred_code import DeferredCode
from upscale_fx.compiled.functions import ByMode
from upscale_fx.compiled.inputs import ModelInputs
from upscale_fx.compiled.missing_types import Missing, missing_types, text_of, without_types
from upscale_fx.compiled.objects.arguments import built, has_objects, taken_apart
from upscale_fx.compiled.objects.results import packed
from upscale_fx.compiled.record import GraphRecord, NodeRecord
from upscale_fx.compiled.record.nodes import copied_graph, graph_of, record_nodes
from upscale_fx.errors import InputError, ModeError

# Attributes that GraphModule makes from the graph, so that a pickle need not hold them.
_DERIVED = ("_graph", "_code", "_lineno_map", "_prologue_start", "_replace_hooks", "_create_node_hooks",
            "_erase_node_hooks", "_deepcopy_hooks", "_wrapped_call", "_graphs_without_types")  # fmt: skip


#: The key of the record in the ``meta`` of a graph.
RECORD = "upscale_fx"


class CompiledGNN(DeferredCode):
    """A GNN as an FX graph.

    Passes and reports also read its :class:`GraphRecord` (:func:`record_of`). The record is an entry of FX's ``meta``
    and not an attribute, because a model may have a layer of any name.
    """

    def train(self, mode: bool = True) -> CompiledGNN:
        """Switch dropout and batch norm; raises ModeError if the graph is right in ``eval()`` only."""
        record = self.__dict__.get("meta", {}).get(RECORD)
        if mode and record is not None and record.eval_only:
            raise ModeError(f"this graph was traced for eval() only and cannot be trained: {record.eval_only}")
        return super().train(mode)

    def write_code(self) -> Any:
        """Write the code of the graph, and take objects apart before it if the traced model took any."""
        code = super().write_code()
        self.__dict__.pop("_graphs_without_types", None)  # made of the graph as it was
        record = self.__dict__.get("meta", {}).get(RECORD)
        if record is not None and _prepares_calls(record):
            type(self).forward = _with_objects(type(self).forward)
        return code

    def __reduce__(self) -> tuple[Any, ...]:
        # FX's own pickling traces the generated code again, which fails for PyG's functions.
        body = {key: value for key, value in self.__dict__.items() if key not in _DERIVED}
        return _rebuild, (record_nodes(self.graph), body)

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledGNN:
        # FX's own deep copy forgets which buffers are not persistent.
        body = _copied_fields(self, memo)
        root = nn.Module()
        root.__dict__.update(body)
        return make_module(root, copied_graph(self.graph), body["meta"], body["training"])


def _prepares_calls(record: GraphRecord) -> bool:
    """Whether calls take or give objects, or dictionaries by type."""
    typed = any(isinstance(spec, dict) for spec in record.inputs.arguments.values())
    return bool(record.inputs.objects) or record.results is not None or typed


def _with_objects(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward() of a graph that also takes the objects that the model takes, and returns those that it returns."""

    @wraps(forward)
    def call(self: CompiledGNN, *args: Any, **kwargs: Any) -> Any:
        record: GraphRecord = self.meta[RECORD]
        inputs = record.inputs
        given: dict[str, Any] = {}
        if inputs.objects and has_objects(args, kwargs, inputs.objects):
            kwargs, given = taken_apart(inputs.objects, inputs.call, inputs.arguments, args, kwargs)
            args = ()
        named = {**dict(zip(inputs.order, args, strict=False)), **kwargs}
        missing = missing_types(inputs, named, record.any_order) & record.typed
        result = run_without_types(self, missing, named) if missing else forward(self, *args, **kwargs)
        if record.results is None:
            return result
        if inputs.objects and not given:
            bound = inspect.signature(forward).bind(self, *args, **kwargs).arguments
            objects = built(inputs.objects, {name: bound[name] for name in bound if name in inputs.arguments})
            given = {name: objects[name] for name in inputs.objects}
        return packed(record.results, result, given)

    return call


def graph_without_types(gm: CompiledGNN, missing: Missing) -> fx.Graph | None:
    """Return the unfused nodes of a graph without what needs missing types; None if it has no outputs then."""
    records = record_of(gm).plain
    return without_types(gm.graph if records is None else graph_of(records), missing)


def run_without_types(gm: CompiledGNN, missing: Missing, arguments: Mapping[str, Any]) -> Any:
    """Call a graph for a batch that lacks types, unfused.

    Raises:
        InputError: the model refuses such a batch, or it was never compared with the graph for one.
    """
    known = record_of(gm).lacking
    reason = known.get(missing)
    if reason is None:
        reason = (
            f"a batch without {text_of(missing)} was not tried when this graph was traced; trace again with an example "
            f"that lacks the same"
        )
    if reason:
        raise InputError(reason)
    graphs = gm.__dict__.setdefault("_graphs_without_types", {})
    if missing not in graphs:
        graphs[missing] = graph_without_types(gm, missing)
    return run_graph(gm, graphs[missing], arguments)


def run_graph(gm: CompiledGNN, graph: fx.Graph, arguments: Mapping[str, Any]) -> Any:
    """Run another graph over the parameters, buffers and modules of ``gm``."""
    values = [arguments.get(str(node.target)) for node in graph.find_nodes(op="placeholder")]
    return _without_fx_types(fx.Interpreter(gm, graph=graph).run(*values, enable_io_processing=False))


def _without_fx_types(value: Any) -> Any:
    """A result with Python's own dictionaries and lists in place of FX's immutable ones."""
    if isinstance(value, dict):
        return {key: _without_fx_types(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_fx_types(item) for item in value]
    return tuple(map(_without_fx_types, value)) if type(value) is tuple else value


def _copied_fields(module: nn.Module, memo: dict[int, Any]) -> dict[str, Any]:
    """Return deep copies of all fields of a module; the containers in which FX keeps parameters are copied faster."""
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


def _rebuild(records: Sequence[NodeRecord], body: dict[str, Any]) -> CompiledGNN:
    root = nn.Module()
    root.__dict__.update(body)
    return make_module(root, graph_of(records), body["meta"], body["training"])


def all_nodes(gm: fx.GraphModule) -> list[fx.Node]:
    """Return the nodes of a graph and of the graphs it calls."""
    return [node for part in gm.modules() if isinstance(part, fx.GraphModule) for node in part.graph.nodes]


def record_of(gm: CompiledGNN) -> GraphRecord:
    """Return the record of a graph."""
    record: GraphRecord = gm.meta[RECORD]
    return record


def inputs_of(gm: CompiledGNN) -> ModelInputs:
    """Return the description of a graph's arguments."""
    return record_of(gm).inputs


def meta_with(gm: CompiledGNN, **changes: Any) -> dict[str, Any]:
    """Return the ``meta`` for a graph made from this one, with these fields of the record changed."""
    return {**gm.meta, RECORD: replace(record_of(gm), **changes)}


def note(gm: CompiledGNN, **changes: Any) -> None:
    """Change fields of a graph's record."""
    gm.meta = meta_with(gm, **changes)


def remember_unfused(gm: CompiledGNN) -> None:
    """Record the nodes as they are before fusing, so that the fused graph can be analysed and pruned again."""
    note(gm, plain=record_nodes(gm.graph))


def is_fused(gm: CompiledGNN) -> bool:
    """Whether message passing was fused; the record then holds the nodes from before."""
    return record_of(gm).plain is not None


def unfused(gm: CompiledGNN) -> CompiledGNN:
    """Return the graph from before fusing, over the same parameters; the graph itself if it was never fused."""
    records = record_of(gm).plain
    if records is None:
        return gm
    body = {key: value for key, value in gm.__dict__.items() if key not in _DERIVED}
    body["meta"] = meta_with(gm, plain=None)
    return _rebuild([node.copied() for node in records], body)


def make_module(root: nn.Module, graph: fx.Graph, meta: dict[str, Any], training: bool) -> CompiledGNN:
    """Make a CompiledGNN with all that the graph reads of ``root``; buffers missing in its state_dict stay so."""
    module = _made_of(root, graph, meta)
    record: GraphRecord | None = meta.get(RECORD)
    only_eval = record is not None and bool(record.eval_only)
    for part in module.modules():  # set directly: FX makes modules in train mode, and layers keep their own mode
        if part is module or type(part) is nn.Module or isinstance(part, ByMode) or only_eval:
            part.training = training and not only_eval
    return module


def over_same_parameters(gm: CompiledGNN, graph: fx.Graph) -> CompiledGNN:
    """Make a module of another graph that shares the parameters, buffers and modules of ``gm``, only for analysis."""
    module = _made_of(gm, graph, gm.meta)
    module.training = gm.training
    return module


def _made_of(root: nn.Module, graph: fx.Graph, meta: dict[str, Any]) -> CompiledGNN:
    persistent = set(root.state_dict())
    module = CompiledGNN(root, graph, "CompiledGNN")
    record: GraphRecord | None = meta.get(RECORD)  # the structure half of a graph has none of its own
    for node in (record.plain or ()) if record is not None else ():
        if node.op in ("get_attr", "call_module"):
            _carry_over(root, module, node.target)
    for path, owner in module.named_modules():
        for name, _ in owner.named_buffers(recurse=False):
            full = f"{path}.{name}" if path else name
            if full not in persistent:
                owner._non_persistent_buffers_set.add(name)
    module.meta = dict(meta)
    if record is not None and _prepares_calls(record):
        module.recompile()  # again, now that the record says what a call takes
    return module


def _carry_over(root: nn.Module, module: nn.Module, target: str) -> None:
    """Copy a submodule or tensor that only the unfused graph reads, such as a dropout that fusing removed."""
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
    """Return the bytes of parameters and persistent buffers; those that modules share count once."""
    tensors = [value for value in module.state_dict(keep_vars=True).values() if isinstance(value, torch.Tensor)]
    return sum(value.numel() * value.element_size() for value in {id(value): value for value in tensors}.values())


def call_by_name(model: nn.Module, inputs: ModelInputs, arguments: Mapping[str, Any], quiet: bool = False) -> Any:
    """Call a model, or its graph, with arguments by the names they have in the graph.

    ``quiet`` calls ``forward`` directly, because a GraphModule's own call prints a traceback when it fails.
    """
    if not isinstance(model, CompiledGNN):
        args, kwargs = inputs.bind(arguments)
    elif inputs.objects and inputs_of(model).objects:
        args, kwargs = [], built(inputs.objects, arguments)
    else:
        args, kwargs = [], dict(arguments)
    return (model.forward if quiet else model)(*args, **kwargs)
