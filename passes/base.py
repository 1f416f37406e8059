"""Passes and pipelines, by torch.fx's own conventions: a pass is a callable from a GraphModule to a PassResult."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch.fx.passes.infra.pass_base import PassResult

from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.compiled.dead_nodes import drop_dead_nodes
from upscale_fx.compiled.module import CompiledGNN, make_module, stored_tensors
from upscale_fx.compiled.progress import stage
from upscale_fx.errors import PassError


class Pass(Protocol):
    """A frozen dataclass whose fields are the pass's options."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Return a new module, or ``gm`` itself if there is nothing to change; ``gm`` stays as it is."""
        ...


#: Called after every pass with the pass, the module before and the module after, to print graph diffs for example.
Callback = Callable[[Pass, CompiledGNN, CompiledGNN], None]


@dataclass(frozen=True)
class Pipeline:
    """Passes in sequence; the result of each is checked."""

    passes: Sequence[Pass]
    callback: Callback | None = None

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run all passes; raises PassError where one breaks an invariant."""
        modified = False
        for step in self.passes:
            stage(type(step).__name__)
            result = step(gm)
            check_invariants(step, gm, result.graph_module)
            if self.callback is not None:
                result.graph_module.make_code()  # whoever is shown a graph may call or compile it
                self.callback(step, gm, result.graph_module)
            gm, modified = result.graph_module, modified or result.modified
        return PassResult(gm, modified)


def edited(gm: CompiledGNN, edit: Callable[[CompiledGNN], object]) -> PassResult:
    """The body of a pass: edit a copy of a graph, drop its dead nodes, and make a module of what is left.

    Args:
        gm: the graph, which stays as it is.
        edit: changes the graph, the parameters or ``meta`` of the copy. Returns a true value if it changed anything,
            such as a count; otherwise the copy is discarded.

    Returns:
        The new module, or ``gm`` itself where there was nothing to do.
    """
    new = copy.deepcopy(gm)
    if not edit(new):
        return PassResult(gm, False)
    drop_dead_nodes(new.graph)
    return PassResult(make_module(new, new.graph, new.meta, gm.training), True)


def edited_flow(gm: CompiledGNN, edit: Callable[[Dataflow], object]) -> PassResult:
    """As :func:`edited`, for edits that look at the dataflow of the copy: ``flow.module`` is the copy."""
    return edited(gm, lambda new: edit(analyse(new)))


def check_invariants(step: Pass, before: CompiledGNN, after: CompiledGNN) -> None:
    """Check that a graph is well formed, takes the same arguments, and adds no parameters except ``*_folded``.

    Raises:
        PassError: one of these does not hold.
    """
    name = type(step).__name__
    try:
        after.graph.lint()
    except Exception as error:
        raise PassError(f"{name} left a malformed graph: {error}") from error
    if arguments(before) != arguments(after):
        raise PassError(f"{name} changed the arguments of the graph: {arguments(before)} -> {arguments(after)}")
    known = stored_tensors(before).keys()
    added = {key for key in stored_tensors(after) if key not in known and not key.endswith("_folded")}
    if added:
        raise PassError(f"{name} added parameters: {sorted(added)}")


def arguments(gm: CompiledGNN) -> list[str]:
    """Names of the graph's placeholders."""
    return [str(node.target) for node in gm.graph.nodes if node.op == "placeholder"]
