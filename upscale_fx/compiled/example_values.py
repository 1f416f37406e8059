"""The values of every node of a graph on the two example graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from upscale_fx.compiled.inputs import LARGE, SMALL
from upscale_fx.compiled.module import CompiledGNN, inputs_of
from upscale_fx.compiled.selections import with_unequal_counts
from upscale_fx.compiled.undisturbed import in_mode, undisturbed
from upscale_fx.errors import UpscaleError

#: The values of a node on the small and on the large example graph.
Pair = tuple[Any, Any]


def example_values(module: CompiledGNN) -> dict[fx.Node, Pair]:
    """Return every node's value on the two example graphs, in eval mode and without gradients."""
    sides = [inputs_of(module).example(SMALL), inputs_of(module).example(LARGE)]
    first: dict[fx.Node, Any] = {}
    second: dict[fx.Node, Any] = {}
    with in_mode(module, training=False), torch.no_grad(), undisturbed(module):
        for node in module.graph.nodes:
            if node.op == "placeholder":
                pair = (sides[0].get(str(node.target)), sides[1].get(str(node.target)))
            else:
                try:
                    call = _call(module, node)
                    pair = (call(node, first), call(node, second))
                except Exception as error:
                    where = f"node {node.name} ({node.meta.get('source', '')})"
                    raise UpscaleError(f"{where} failed on an example graph: {error}") from error
            pair = pair if inputs_of(module).chosen else with_unequal_counts(node.target, pair)
            first[node], second[node] = pair
    return {node: (value, second[node]) for node, value in first.items()}


def _call(module: CompiledGNN, node: fx.Node) -> Callable[[fx.Node, dict[fx.Node, Any]], Any]:
    """Return a function that computes a node from the values before it."""
    if node.op == "get_attr":
        value = _attribute(module, str(node.target))
        return lambda node, values: value
    if node.op == "call_method":
        return _call_method
    if node.op == "output":
        return lambda node, values: map_arg(node.args[0], values.__getitem__)
    function: Any = module.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    return lambda node, values: function(
        *map_arg(node.args, values.__getitem__), **map_arg(node.kwargs, values.__getitem__)
    )


def _call_method(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    own, *args = map_arg(node.args, values.__getitem__)
    return getattr(own, str(node.target))(*args, **map_arg(node.kwargs, values.__getitem__))


def _attribute(module: CompiledGNN, target: str) -> Any:
    path, _, name = target.rpartition(".")
    return getattr(module.get_submodule(path), name)
