"""The passes behind ``optimize``: what only evaluation allows, message passing fused, another precision."""

from __future__ import annotations

import copy

import torch
from torch import nn

from upscale_fx.compiled.deferred_code import code_when_called
from upscale_fx.compiled.module import FOR_INFERENCE, CompiledGNN, make_module, remember_plain
from upscale_fx.passes import (
    CastPrecision,
    CompactChannels,
    FoldBatchNorm,
    FoldConstants,
    FuseAttention,
    FusePropagate,
    LiftToNodes,
    MergeSums,
    Pass,
    Pipeline,
    Reassociate,
    RemoveDeadNodes,
    RemoveDropout,
    ShareStructure,
    SortEdges,
    SplitStructure,
    WriteInPlace,
)
from upscale_fx.passes.base import Callback

#: What only evaluation allows.
FOLDING: list[Pass] = [
    ShareStructure(),
    RemoveDropout(),
    FoldBatchNorm(),
    FoldConstants(inference=True),
    CompactChannels(),
]
#: What takes message passing together, once channels are settled.
FUSING: list[Pass] = [SortEdges(), LiftToNodes(), FusePropagate(), FuseAttention(), Reassociate(), MergeSums()]


def optimized(
    module: CompiledGNN, given: nn.Module, callback: Callback | None, inference: bool, dtype: torch.dtype | None
) -> CompiledGNN:
    """A fused copy of an unfused graph; ``given`` is what the user handed in, which must stay as it is."""
    with code_when_called():
        fused = _optimized(module, given, callback, inference, dtype)
    fused.make_code()
    return fused


def _optimized(
    module: CompiledGNN, given: nn.Module, callback: Callback | None, inference: bool, dtype: torch.dtype | None
) -> CompiledGNN:
    casting: list[Pass] = [] if dtype is None else [CastPrecision(dtype)]
    folding: list[Pass] = FOLDING if inference else []
    cleaned: CompiledGNN = Pipeline([*folding, ShareStructure(), RemoveDeadNodes()], callback)(module).graph_module
    if inference:
        cleaned = make_module(cleaned, cleaned.graph, {**cleaned.meta, **FOR_INFERENCE}, False)
    elif cleaned is given:
        cleaned = copy.deepcopy(cleaned)
    remember_plain(cleaned)
    # Casts come when messages are fused, which accumulate in float32 by themselves, and before anything is overwritten.
    passes = [*FUSING, *casting, WriteInPlace(), SplitStructure()]
    fused: CompiledGNN = Pipeline(passes, callback)(cleaned).graph_module
    return fused
