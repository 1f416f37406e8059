"""The passes behind ``optimize``: what only evaluation allows, message passing fused, another precision."""

from __future__ import annotations

import copy

import torch

from upscale_fx.compiled.deferred_code import code_when_called
from upscale_fx.compiled.module import CompiledGNN, make_module, meta_with, remember_unfused
from upscale_fx.compiled.record import EVAL_ONLY_INFERENCE
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
    module: CompiledGNN,
    callback: Callback | None = None,
    inference: bool = False,
    dtype: torch.dtype | None = None,
) -> CompiledGNN:
    """A fused copy of an unfused graph, which stays as it is."""
    with code_when_called():
        fused = _optimized(module, callback, inference, dtype)
    fused.make_code()
    return fused


def _optimized(
    module: CompiledGNN, callback: Callback | None, inference: bool, dtype: torch.dtype | None
) -> CompiledGNN:
    casting: list[Pass] = [] if dtype is None else [CastPrecision(dtype)]
    folding: list[Pass] = FOLDING if inference else []
    cleaning = Pipeline([*folding, ShareStructure(), RemoveDeadNodes()], callback)(module)
    # What passes left alone is what the user holds, or shares its parameters.
    cleaned: CompiledGNN = cleaning.graph_module if cleaning.modified else copy.deepcopy(module)
    if inference:
        cleaned = make_module(cleaned, cleaned.graph, meta_with(cleaned, eval_only=EVAL_ONLY_INFERENCE), False)
    remember_unfused(cleaned)
    # Casts come when messages are fused, which accumulate in float32 by themselves, and before anything is overwritten.
    passes = [*FUSING, *casting, WriteInPlace(), SplitStructure()]
    fused: CompiledGNN = Pipeline(passes, callback)(cleaned).graph_module
    return fused
