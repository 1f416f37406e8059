"""The values of every node of a graph on the two example graphs."""

from __future__ import annotations

from collections.abc import Mapping
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
    results: list[dict[fx.Node, Any]] = [{}, {}]
    interpreter = fx.Interpreter(module, garbage_collect_values=False)
    with in_mode(module, training=False), torch.no_grad(), undisturbed(module):
        for node in module.graph.nodes:
            pair = [_run(interpreter, node, *side) for side in zip(sides, results, strict=True)]
            results[0][node], results[1][node] = with_unequal_counts(node.target, (pair[0], pair[1]))
    return {node: (results[0][node], results[1][node]) for node in results[0]}


def _run(
    interpreter: fx.Interpreter, node: fx.Node, arguments: Mapping[str, object], values: Mapping[fx.Node, Any]
) -> Any:
    if node.op == "placeholder":
        return arguments.get(str(node.target))
    args = map_arg(node.args, lambda source: values[source])
    kwargs = map_arg(node.kwargs, lambda source: values[source])
    try:
        return getattr(interpreter, node.op)(node.target, args, kwargs)
    except Exception as error:
        where = f"node {node.name} ({node.meta.get('source', '')})"
        raise UpscaleError(f"{where} failed on an example graph: {error}") from error
