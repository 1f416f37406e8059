"""Compare a graph with its model on example graphs that were not traced."""

from __future__ import annotations

from torch import nn

from upscale_fx.compiled.comparison import largest_difference
from upscale_fx.compiled.inputs import CHECKED, OTHER
from upscale_fx.compiled.module import CompiledGNN, inputs_of
from upscale_fx.errors import TraceError
from upscale_fx.tracing.fitting import run_example
from upscale_fx.tracing.modules.state import State


def check_trace(root: nn.Module, traced: CompiledGNN, state: State) -> None:
    """Check that graph and model agree on example graphs that were not traced, one of them a node without edges.

    Raises:
        TraceError: they differ, so the model depends on the size or the values of its inputs.
    """
    for rows in CHECKED:
        try:
            expected = run_example(root, inputs_of(traced), rows, state=state, seed=7, loops=rows is OTHER)
        except Exception:  # the model itself refuses this graph, so there is nothing to compare with
            continue
        try:
            actual = run_example(traced, inputs_of(traced), rows, seed=7, loops=rows is OTHER, quiet=True)
        except Exception as error:
            raise TraceError(_differs(root, rows, f"{type(error).__name__}: {error}")) from error
        gap = largest_difference(expected, actual)
        if not gap <= 1e-4:
            again = run_example(root, inputs_of(traced), rows, state=state, seed=7, loops=rows is OTHER)
            if largest_difference(expected, again) > 1e-4:
                raise TraceError(
                    f"{type(root).__name__} gives other outputs when it is called again with the same inputs, so no "
                    f"graph can do what it does: forward() reads state that earlier calls left outside the model (a "
                    f"global variable, a random generator of its own); pass it in as an argument"
                )
            raise TraceError(_differs(root, rows, f"outputs differ by {gap:.2g}"))


def _differs(root: nn.Module, rows: dict[str, int], what: str) -> str:
    return (
        f"{type(root).__name__} was traced, but for {rows['N']} nodes and {rows['E']} edges the graph does not do what "
        f"the model does ({what}): forward() branches on the size or the values of its inputs; write that branch as a "
        f"tensor operation (torch.where)"
    )
