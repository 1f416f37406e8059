"""Check a trace: run model and graph on example graphs that were not traced, and on batches that lack types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from upscale_fx.compiled.comparison import largest_difference
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
            raise TraceError(_differs(root, rows, f"{type(error).__name__}: {error}")) from error
        gap = largest_difference(expected, actual)
        if not gap <= 1e-4:
            again = run_example(root, inputs, rows, state=state, seed=7, loops=rows is OTHER)
            if largest_difference(expected, again) > 1e-4:
                raise TraceError(
                    f"{type(root).__name__} gives other outputs when it is called again with the same inputs, so no "
                    f"graph can do what it does: forward() reads state that earlier calls left outside the model (a "
                    f"global variable, a random generator of its own); pass it in as an argument"
                )
            raise TraceError(_differs(root, rows, f"outputs differ by {gap:.2g}"))


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


def _differs(root: nn.Module, rows: dict[str, int], what: str) -> str:
    return (
        f"{type(root).__name__} was traced, but for {rows['N']} nodes and {rows['E']} edges the graph does not do what "
        f"the model does ({what}): forward() branches on the size or the values of its inputs; write that branch as a "
        f"tensor operation (torch.where)"
    )
