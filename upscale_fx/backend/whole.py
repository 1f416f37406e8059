"""Conditions for pruning Dynamo's graph: the model is whole, not compiled before, and not under autocast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch._dynamo.symbolic_convert import InstructionTranslator

from upscale_fx.backend.arguments import Argument
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.errors import InputError, ModeError, TraceError


def check_whole(gm: fx.GraphModule) -> None:
    """Raise a TraceError unless a graph break is an error, as with ``fullgraph=True``.

    Otherwise a model may arrive in pieces, each a graph, and a piece does not show that others exist.
    """
    try:
        translator: Any = InstructionTranslator.current_tx()
    except AttributeError:  # not called by torch.compile
        return
    if translator is None or translator.one_graph or translator.error_on_graph_break:
        return
    reason = getattr(gm, "compile_subgraph_reason", None)
    where = ""
    if reason is not None and reason.graph_break:
        lines = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reason.user_stack[-1:]]
        where = f" This one is broken at {', '.join(lines)}: {str(reason.reason).splitlines()[0]}."
    raise TraceError(
        f"backend='upscale' needs torch.compile(..., fullgraph=True): without it, a model arrives in pieces wherever "
        f"Dynamo breaks its graph, and a piece does not show which layers read its channels.{where} Pass "
        f"fullgraph=True, or prune the model first: torch.compile(upscale_fx.prune(model, amount))"
    )


def check_not_compiled(arguments: Sequence[Argument]) -> None:
    """Raise an InputError for a model that upscale_fx compiled: Dynamo's graph does not show padding.

    ``upscale_fx.prune`` knows which channels are padding, and the graph before message passing was fused.
    """
    try:
        output = InstructionTranslator.current_tx().output
    except AttributeError:  # not called by torch.compile
        return
    variables = {**output.global_scope, **output.local_scope}
    for owner in {argument.owner.split(".")[0] for argument in arguments if argument.owner}:
        model = variables.get(owner)
        if isinstance(model, nn.Module) and any(isinstance(part, CompiledGNN) for part in model.modules()):
            raise InputError(
                "backend='upscale' was given a model that upscale_fx compiled before. Compile it with another "
                "backend, torch.compile(compiled), or prune it further first, upscale_fx.prune(compiled, amount)"
            )


def check_not_autocast() -> None:
    """Raise a ModeError under torch.autocast, which converts operands of torch's operations but not of upscale_fx's."""
    if any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
        raise ModeError(
            "backend='upscale' does not run under torch.autocast: its kernels take operands of one dtype. Convert the "
            "model instead, as in model.bfloat16(), and its inputs"
        )
