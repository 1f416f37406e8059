"""Check a trace: run model and graph on example graphs that were not traced, and on batches that lack types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from upscale_fx.compiled.calls import target_name
from upscale_fx.compiled.comparison import largest_difference
from upscale_fx.compiled.example_values import example_values
from upscale_fx.compiled.inputs import CHECKED, LARGE, OTHER, SMALL, ModelInputs
from upscale_fx.compiled.missing_types import typed_entries
from upscale_fx.compiled.module import CompiledGNN, call_by_name, inputs_of, note
from upscale_fx.compiled.objects.calls import run_graph
from upscale_fx.compiled.undisturbed import in_mode, undisturbed
from upscale_fx.errors import TraceError
from upscale_fx.tracing.fitting import run_example
from upscale_fx.tracing.missing_types import lacking_types, takes_any_order
from upscale_fx.tracing.modules.state import State


def run_with(root: nn.Module, state: State, inputs: ModelInputs, arguments: Mapping[str, Any]) -> Any:
    """Return the model's output for these arguments, in ``eval()``; the model is put back to ``state``."""
    try:
        with in_mode(root, training=False), torch.no_grad(), undisturbed(root):
            return call_by_name(root, inputs, arguments)
    finally:
        state.restore()


def check_trace(root: nn.Module, traced: CompiledGNN, state: State) -> None:
    """Check that graph and model agree on example graphs that were not traced, one of them a node without edges.

    Raises:
        TraceError: they differ, so the model depends on the size or the values of its inputs.
    """
    for rows in CHECKED:
        inputs = inputs_of(traced) if rows in (SMALL, LARGE) else inputs_of(traced).drawn()
        try:
            expected = run_example(root, inputs, rows, state=state, seed=7, loops=rows is OTHER)
        except Exception:  # the model itself refuses this graph, so there is nothing to compare with
            continue
        try:
            actual = run_example(traced, inputs, rows, seed=7, loops=rows is OTHER, quiet=True)
        except Exception as error:
            raise TraceError(_differs(root, traced, rows, f"{type(error).__name__}: {error}")) from error
        gap = largest_difference(expected, actual)
        if not gap <= 1e-4:
            again = run_example(root, inputs, rows, state=state, seed=7, loops=rows is OTHER)
            if largest_difference(expected, again) > 1e-4:
                raise TraceError(
                    f"{type(root).__name__} gives other outputs when it is called again with the same inputs, so no "
                    f"graph can do what it does: forward() reads state that earlier calls left outside the model (a "
                    f"global variable, a random generator of its own); pass it in as an argument"
                )
            raise TraceError(_differs(root, traced, rows, f"outputs differ by {gap:.2g}"))


def note_types(root: nn.Module, traced: CompiledGNN, state: State) -> None:
    """Record which types a batch may lack, and whether their order matters."""
    inputs = inputs_of(traced)
    if not any(isinstance(spec, dict) for spec in inputs.arguments.values()):
        return

    def in_eval(call: Callable[[], Any]) -> Any:
        with in_mode(root, training=False), in_mode(traced, training=False), torch.no_grad(), undisturbed(root):
            return call()

    def model(arguments: Mapping[str, Any]) -> Any:
        try:
            return in_eval(lambda: call_by_name(root, inputs, arguments))
        finally:
            state.restore()

    any_order = takes_any_order(inputs, model)
    lacking = lacking_types(
        inputs, traced.graph, model, lambda graph: lambda given: in_eval(lambda: run_graph(traced, graph, given))
    )
    typed = frozenset(typed_entries(traced.graph).values())
    note(traced, typed=typed, lacking=lacking, any_order=any_order)


def _differs(root: nn.Module, traced: CompiledGNN, rows: dict[str, int], what: str) -> str:
    apart = _taken_apart(traced)
    if apart is not None:
        return (
            f"cannot trace {type(root).__name__}: {apart.meta.get('source', '')}: a tensor is taken apart along its "
            f"rows ({target_name(apart.target)}), into as many parts as the graph has, and of {rows['N']} nodes and "
            f"{rows['E']} edges they are others than of the example; take parts by index, as in x[: x.size(0) // 2]"
        )
    return (
        f"{type(root).__name__} was traced, but for {rows['N']} nodes and {rows['E']} edges the graph does not do what "
        f"the model does ({what}): forward() branches on the size or the values of its inputs; write that branch as a "
        f"tensor operation (torch.where)"
    )


#: Calls that return the parts of a tensor along an axis, the first one by default.
_PARTS = ("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split", "unbind")


def _taken_apart(traced: CompiledGNN) -> fx.Node | None:
    """The first call that takes a tensor apart along an axis whose size depends on the graph; None if there is none."""
    values = example_values(traced)
    for node in traced.graph.nodes:
        if node.op in ("call_function", "call_method") and target_name(node.target) in _PARTS:
            pair = values.get(node.args[0] if node.args else node.kwargs.get("input"))
            place = 1 if target_name(node.target) == "unbind" else 2
            dim = node.kwargs.get("dim", node.args[place] if len(node.args) > place else 0)
            if pair is not None and isinstance(dim, int) and pair[0].shape[dim] != pair[1].shape[dim]:
                found: fx.Node = node
                return found
    return None
