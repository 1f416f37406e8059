"""Fused graphs where torch follows their calls itself: in transforms of ``torch.func``, and under ``torch.jit.trace``.

The fused operators have no rules for ``grad``, ``vmap``, forward-mode derivatives and TorchScript. There a fused graph
runs the nodes from before fusing, over the same parameters and layers, and computes the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import fx
from torch.autograd import forward_ad

from upscale_fx.compiled.guards.listed_nodes import changes, list_all_nodes
from upscale_fx.compiled.layers.calls import graph_with_calls
from upscale_fx.compiled.layers.find import calls_by_owner
from upscale_fx.compiled.objects.calls import run_graph
from upscale_fx.compiled.prepared import PreparedGraph
from upscale_fx.compiled.record import GraphRecord
from upscale_fx.compiled.record.graph import RECORD
from upscale_fx.compiled.record.nodes import graph_of
from upscale_fx.errors import UnsupportedError

#: The attribute that holds the graph with layers called as modules, once it was needed.
FOLLOWED = "_followed"


def with_transforms(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward() of a fused graph that runs unfused where torch could not follow its operators."""

    @wraps(forward)
    def call(self: fx.GraphModule, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or not (tool := _tool()):
            return forward(self, *args, **kwargs)
        return _run_unfused(self, forward, tool, args, kwargs)

    return call


def _tool() -> str:
    """What follows calls at this moment; empty if nothing does."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "torch.func and torch.vmap"
    if forward_ad._current_level >= 0:
        return "Forward-mode derivatives"
    return "torch.jit.trace" if torch._C._is_tracing() else ""


def _run_unfused(
    gm: fx.GraphModule, forward: Callable[..., Any], tool: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call the nodes from before fusing.

    Raises:
        UnsupportedError: the fused graph was changed by hand, or is called with a prepared graph.
    """
    record: GraphRecord = gm.meta[RECORD]
    bound = inspect.signature(forward).bind(gm, *args, **kwargs)
    bound.apply_defaults()
    if any(isinstance(value, PreparedGraph) for value in bound.arguments.values()):
        raise UnsupportedError(
            f"{tool} cannot go through a prepared graph, which holds what fused operators read: pass edge_index itself"
        )
    if gm.__dict__.get(FOLLOWED) is None:
        if record.fused is not None and (edit := changes(record.fused, list_all_nodes(gm))):
            raise UnsupportedError(
                f"{tool} cannot go through fused operators, and the graph from before fusing lacks a change that was "
                f"made by hand ({edit}): change a graph that is not fused, which compact() returns"
            )
        plain = graph_of(record.plain or ())
        called = gm.__dict__.get("_layers_in_code", frozenset())
        layers = {path: call for path, call in calls_by_owner(plain).items() if path in called}
        gm.__dict__[FOLLOWED] = graph_with_calls(plain, layers)
    return run_graph(gm, gm.__dict__[FOLLOWED], bound.arguments)
