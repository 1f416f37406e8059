"""The passes behind ``optimize``: folds for inference, fused message passing, and another precision."""

from __future__ import annotations

import torch

from upscale_fx.compiled.deferred_code import code_when_called
from upscale_fx.compiled.module import CompiledGNN, make_module, meta_with, remember_fused, remember_unfused
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
from upscale_fx.tracing.missing_types import recheck_types

#: Passes whose result is for ``eval()`` only.
FOLDING: list[Pass] = [
    ShareStructure(),
    RemoveDropout(),
    FoldBatchNorm(),
    FoldConstants(inference=True),
    CompactChannels(),
]
#: Passes that fuse message passing, after compaction.
FUSING: list[Pass] = [SortEdges(), LiftToNodes(), FusePropagate(), FuseAttention(), Reassociate(), MergeSums()]


def optimized(
    module: CompiledGNN,
    callback: Callback | None = None,
    inference: bool = False,
    dtype: torch.dtype | None = None,
    fuse: bool = True,
) -> CompiledGNN:
    """Fuse an unfused graph that nobody else holds: the result may be this very graph, or share its parameters."""
    with code_when_called():
        fused = _optimized(module, callback, inference, dtype, fuse)
    fused.make_code()
    return fused


def _optimized(
    module: CompiledGNN, callback: Callback | None, inference: bool, dtype: torch.dtype | None, fuse: bool
) -> CompiledGNN:
    casting: list[Pass] = [] if dtype is None else [CastPrecision(dtype)]
    folding: list[Pass] = FOLDING if inference else []
    cleaned: CompiledGNN = Pipeline([*folding, ShareStructure(), RemoveDeadNodes()], callback)(module).graph_module
    if inference:
        cleaned = make_module(cleaned, cleaned.graph, meta_with(cleaned, eval_only=EVAL_ONLY_INFERENCE), False)
        recheck_types(module, cleaned)
    if not fuse:
        plain: CompiledGNN = Pipeline(casting, callback)(cleaned).graph_module
        return plain
    remember_unfused(cleaned)
    # Casts come after fusing (fused operators accumulate in float32) and before values are overwritten in place.
    passes = [*FUSING, *casting, WriteInPlace(), SplitStructure()]
    fused: CompiledGNN = Pipeline(passes, callback)(cleaned).graph_module
    remember_fused(fused)
    return fused
