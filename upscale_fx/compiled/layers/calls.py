"""Layers of a graph: modules of which the graph reads all tensors, in calls of their own function only.

Analyses read ``linear(x, lin.weight, lin.bias)``, since parameters are values like any other. The code of the graph
calls the module ``lin`` instead, a real ``nn.Linear``: so hooks on it run, and whoever changes or replaces it (masks,
parametrizations, quantisation) changes what the graph computes.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from upscale_fx.compiled import functions
from upscale_fx.compiled.layers.additions import has_hooks
from upscale_fx.compiled.layers.find import calls_by_owner
from upscale_fx.compiled.layers.kinds import LAYERS, Call, layer_call, made_of
from upscale_fx.compiled.layers.place import REGISTERING, Place, allow_hooks, refuse_hooks
from upscale_fx.compiled.parts import FusedLinear, Part
from upscale_fx.compiled.record import GraphRecord
from upscale_fx.compiled.record.nodes import NodeRecord, copied_graph, graph_of
from upscale_fx.errors import EditedGraphError
from upscale_fx.operators.kernels import memory

#: The attributes that every module has, which a part keeps when it becomes a layer.
_COMMON = frozenset(nn.Module().__dict__)
_PARTS = (nn.Module, Part, FusedLinear)


def with_layers(gm: nn.Module, graph: fx.Graph, record: GraphRecord | None) -> fx.Graph:
    """Return a graph in which layers are called as modules; in ``gm``, what it calls gets ready for that.

    Raises:
        EditedGraphError: the graph called a module with hooks when code was written last, and does not now.
    """
    layers = make_layers(gm, graph)
    _become_parts(gm, gm.__dict__.get("_layers_in_code", frozenset()) - layers.keys())
    gm.__dict__["_layers_in_code"] = frozenset(layers)
    if record is not None and record.plain is not None:
        _mark_fused(gm, record.plain)
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    _set_places(gm, called, sorted(called | layers.keys()), record)
    return graph_with_calls(graph, layers) if layers else graph


def _mark_fused(gm: nn.Module, plain: Sequence[NodeRecord]) -> None:
    """Let those parts be linear layers by type that the graph called before fusing."""
    waiting = {path for path, part in gm.named_modules() if type(part) is Part and "weight" in part._parameters}
    for path, call in calls_by_owner(graph_of(plain)).items() if waiting else ():
        if path in waiting and call.module is nn.Linear:
            _become(gm.get_submodule(path), call, FusedLinear)


def _set_places(gm: nn.Module, called: set[str], shown: Sequence[str], record: GraphRecord | None) -> None:
    """Tell parts where they are, and let modules refuse hooks that the graph keeps but does not call."""
    plain = record.plain if record is not None else None
    inside = tuple(f"{path}." for path in called)
    of_model = (
        set() if record is None else {str(node.target) for node in record.plain or () if node.op == "call_module"}
    )
    for path, module in list(gm.named_modules()):
        if isinstance(module, Part):
            module.graph_place = Place(path, shown, plain)
        elif path in of_model - called and not path.startswith(inside):
            owner, _, name = path.rpartition(".")
            kept = copy.copy(module)  # another graph may call it
            refuse_hooks(kept, Place(path, shown, plain))
            gm.get_submodule(owner)._modules[name] = kept
        elif path in called and any(method in module.__dict__ for method in REGISTERING):
            owner, _, name = path.rpartition(".")
            gm.get_submodule(owner)._modules[name] = taken = copy.copy(module)
            allow_hooks(taken)


def make_layers(gm: nn.Module, graph: fx.Graph) -> dict[str, Call]:
    """Turn the parts that a graph can call into layers, and return the calls of all layers by path.

    A module that a user put in the place of a layer is one, whatever it is.
    """
    layers: dict[str, Call] = {}
    for owner, call in calls_by_owner(graph).items():
        try:
            module = gm.get_submodule(owner)
        except AttributeError:
            continue
        if type(module) not in _PARTS or _become(module, call):
            layers[owner] = call
    return layers


def _become(part: nn.Module, call: Call, kind: type[nn.Module] | None = None) -> bool:
    """Turn a part into the layer of its call, or into one of another class, in place; whether it can be one."""
    tensors: dict[str, Tensor] = {name: value for name, value in part._parameters.items() if value is not None}
    if part._modules or part._buffers or part._forward_pre_hooks or tensors.keys() != call.tensors:
        return False
    made = made_of(call, tensors)
    if made is None:
        return False
    part.__class__ = kind or type(made)
    part.__dict__.update({name: value for name, value in made.__dict__.items() if name not in _COMMON})
    for name in made._parameters.keys() - tensors.keys():
        part._parameters[name] = None
    return True


def _become_parts(gm: nn.Module, owners: Collection[str]) -> None:
    """Turn layers that the graph no longer calls back into parts.

    Raises:
        EditedGraphError: one has hooks, which would not run any more.
    """
    for owner in sorted(owners):
        try:
            layer = gm.get_submodule(owner)
        except AttributeError:
            continue
        if has_hooks(layer):
            raise EditedGraphError(
                f"after this change the graph does not call '{owner}' as a module any more, and the hooks on it would "
                f"never run: remove them before recompile()"
            )
        if type(layer) in LAYERS:
            layer.__class__ = Part


def graph_with_calls(graph: fx.Graph, layers: dict[str, Call]) -> fx.Graph:
    """Return a copy of a graph in which layers are called as modules."""
    new = copied_graph(graph)
    new._codegen = graph._codegen
    for node in list(new.nodes):
        call = layer_call(node)
        if call is None or call.owner not in layers:
            continue
        if node.target in (memory.linear, functions.add_linear) or call.bias is not None:
            with new.inserting_before(node):
                layer = new.create_node("get_attr", call.owner)
            node.target, node.args, node.kwargs = call_linear, (layer, call.x, call.total, call.bias), {}
        else:
            node.op, node.target, node.args, node.kwargs = "call_module", call.owner, (call.x,), {}
    for node in reversed(list(new.nodes)):
        if node.op == "get_attr" and not node.users and str(node.target).rpartition(".")[0] in layers:
            new.erase_node(node)
    return new


def call_linear(layer: Any, x: Tensor, total: Tensor | None, bias: Tensor | None) -> Tensor:
    """Call a linear layer and add to its result: ``total``, or a bias that is not its own; None adds nothing.

    A later call may overwrite the result. What hooks of the layer see stays as it is.
    """
    any_global: bool = torch.nn.modules.module._has_any_global_hook()  # type: ignore[no-untyped-call]
    if type(layer) is nn.Linear and not any_global and not has_hooks(layer):
        if total is not None:
            return functions.add_linear(total, x, layer.weight)
        return memory.linear(x, layer.weight, layer.bias if bias is None else bias)
    out: Tensor = layer(x)
    for other in (total, bias):
        if other is not None:
            return out + other
    return out if torch.is_grad_enabled() else out.clone()
