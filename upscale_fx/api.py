"""The calls users make: trace, mask, compact, optimize, prune."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import nn

from upscale_fx.consumers import survey
from upscale_fx.criteria import Criterion
from upscale_fx.dataflow import analyse
from upscale_fx.errors import NothingToPruneError
from upscale_fx.masking import MaskOptions, check_amount, nothing_to_prune, plan_removals
from upscale_fx.module import CompiledGNN, make_module, plain, remember_plain
from upscale_fx.ownership import own_copy
from upscale_fx.passes import (
    ApproximateNorms,
    CastPrecision,
    CompactChannels,
    FixStatistics,
    FoldAttention,
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
    RemoveZeroTerms,
    ShareStructure,
    SortEdges,
    SplitStructure,
    WriteInPlace,
)
from upscale_fx.passes.base import Callback
from upscale_fx.passes.fold_constants import FOR_INFERENCE
from upscale_fx.report import record, report, warn_of_leftovers
from upscale_fx.trace import trace_model

Model = TypeVar("Model", bound=nn.Module)


def trace(model: nn.Module, example_inputs: Any = None, example_kwargs: Mapping[str, Any] | None = None) -> CompiledGNN:
    """The model as an FX graph: message passing lowered to gathers, messages and aggregations, row counts dynamic.

    Args:
        model: any PyTorch Geometric model; it is copied, never touched.
        example_inputs: positional arguments of one call, such as ``(x, edge_index)``. Without, argument names and
            declared widths are used.
        example_kwargs: keyword arguments of one call, such as ``{"batch": batch}``.

    Returns:
        A GraphModule that computes what the model computes on graphs of any size, with the model's parameter names.

    Raises:
        TraceError: the model cannot be traced; names module, source line, reason and remedy.
        InputError: example inputs are missing or do not fit.
    """
    return trace_model(model, example_inputs, example_kwargs)


def mask(
    model: Model,
    amount: float | Mapping[str, float],
    *,
    criterion: str | Criterion | None = None,
    inputs: bool = False,
    constrained: bool = False,
    scope: str = "layer",
    round_to: int = 1,
    ignore: str | Sequence[str] = (),
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
) -> Model:
    """A copy of the model, same class, in which every consumer's least important input channels have zero weights.

    This is the exact reference of what pruning means: ``compact`` of it computes the same.

    Args:
        model: the model; never touched.
        amount: share of each consumer's eligible input channels to remove, in [0, 1); ``round(amount * channels)`` go,
            never all, in multi-head layers that share of each head. Or a dictionary from consumer name or pattern
            (``"convs.*"``) to amount; consumers not named keep everything and the last match counts.
        criterion: ``"l1"``, ``"l2"`` (default), ``"lamp"``, ``"fpgm"``, ``"random"``, or a callable
            ``(weight [out, in], name) -> scores [in]``; the lowest scores go, ties by channel number.
        inputs: also prune raw input features. Otherwise only channels that carry hidden values are eligible.
        constrained: all consumers of a tensor share one set of channels.
        scope: ``"layer"``, or ``"global"``: the amount is a share of all channels together.
        round_to: keep a multiple of this many channels (of each head); keeps more rather than fewer.
        ignore: consumer names or patterns that keep everything.
        example_inputs: positional arguments of one call; see :func:`trace`.
        example_kwargs: keyword arguments of one call.

    Raises:
        AmountError: an amount is not a number in [0, 1).
        PatternError: unknown criterion, or a pattern that matches no consumer.
        NothingToPruneError: nothing can be removed; lists every consumer and why.
        TraceError, InputError: see :func:`trace`.
    """
    options = MaskOptions(amount, criterion, inputs, constrained, ignore, scope, round_to)
    _check_early(options)
    traced = trace(model, example_inputs, example_kwargs)
    masked = cast(Model, own_copy(model))
    for removal in plan_removals(survey(analyse(traced)), traced, options):
        removal.consumer.zero(masked, removal.removed)
    return masked


def compact(
    model: nn.Module,
    *,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    approximate_norms: bool = False,
) -> CompiledGNN:
    """An exact, smaller GraphModule of any model that has zeros in it, whoever put them there.

    Args:
        model: the model, such as ``mask`` returns, or pruned by ``torch.nn.utils.prune``; never touched.
        example_inputs: positional arguments of one call; see :func:`trace`.
        example_kwargs: keyword arguments of one call.
        callback: called after every pass with the pass, the graph before and the graph after.
        approximate_norms: not exact. Layer norm, PairNorm, L2 normalisation and other norms over channels, which keep
            all their channels otherwise, let those go that nobody else needs, and estimate their statistics from the
            channels that are left: a mean over ``k`` of ``n`` channels stands for that over all, a sum is scaled by
            ``n / k``. How far off that is depends on how alike the channels are: ``verify`` against the masked model
            says how much outputs differ, only an evaluation of the model says what it costs. The report names the
            norms; whatever has no such norm in it stays exact.

    Raises:
        TraceError, InputError: see :func:`trace`.
    """
    traced = trace(model, example_inputs, example_kwargs)
    flow = analyse(traced)
    return _compact(traced, record(traced, flow, survey(flow), None), callback, approximate_norms)


def _compact(
    traced: CompiledGNN, history: Mapping[str, object], callback: Callback | None, approximate_norms: bool
) -> CompiledGNN:
    # What does not pay at full width may pay at the width that is left, so attention is looked at twice.
    compaction: list[Pass] = [FoldAttention(), CompactChannels(), FoldAttention(), CompactChannels()]
    if approximate_norms:
        compaction = [ApproximateNorms(), *compaction, FixStatistics()]
    passes = Pipeline([ShareStructure(), RemoveZeroTerms(), FoldConstants(), *compaction, RemoveDeadNodes()], callback)
    compacted: CompiledGNN = passes(traced).graph_module
    compacted.meta["report"] = history
    warn_of_leftovers(report(compacted))
    return compacted


def optimize(
    gm: nn.Module,
    *,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    inference: bool = False,
    dtype: torch.dtype | None = None,
) -> CompiledGNN:
    """An exact, faster GraphModule that still trains: message passing fused, structure work done once per graph.

    Args:
        gm: what ``trace`` or ``compact`` returned, or a model, which is traced first.
        example_inputs: positional arguments of one call, where a model has to be traced; see :func:`trace`.
        example_kwargs: keyword arguments of one call.
        callback: called after every pass with the pass, the graph before and the graph after.
        inference: the result is for ``eval()`` only, and ``train()`` raises ModeError. Dropout goes, batch norms fold
            into the layers beside them, and channels that hold one number there in every row, also behind dropout and
            batch norm (a pruned channel and its shift), go into the biases of the layers that read them.
        dtype: not exact. Features and weights are computed in this dtype (``torch.bfloat16``, ``torch.float16``, or
            ``torch.float32`` of a float64 model); sums over neighbours are accumulated in float32, degrees and
            normalisation keep their precision, inputs and outputs their dtype. The report says how far outputs move.

    Raises:
        InputError: ``dtype`` is not one of these.
        TraceError, InputError: see :func:`trace`.
    """
    casting: list[Pass] = [] if dtype is None else [CastPrecision(dtype)]
    module = plain(gm) if isinstance(gm, CompiledGNN) else trace(gm, example_inputs, example_kwargs)
    folding: list[Pass] = FOLDING if inference else []
    cleaned: CompiledGNN = Pipeline([*folding, ShareStructure(), RemoveDeadNodes()], callback)(module).graph_module
    if inference:
        cleaned = make_module(cleaned, cleaned.graph, {**cleaned.meta, **FOR_INFERENCE}, False)
    elif cleaned is gm:
        cleaned = copy.deepcopy(cleaned)
    remember_plain(cleaned)
    # Casts come when messages are fused, which accumulate in float32 by themselves, and before anything is overwritten.
    passes = [*FUSING, *casting, WriteInPlace(), SplitStructure()]
    fused: CompiledGNN = Pipeline(passes, callback)(cleaned).graph_module
    return fused


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


def prune(
    model: nn.Module,
    amount: float | Mapping[str, float],
    *,
    criterion: str | Criterion | None = None,
    inputs: bool = False,
    constrained: bool = False,
    scope: str = "layer",
    round_to: int = 1,
    ignore: str | Sequence[str] = (),
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    approximate_norms: bool = False,
) -> CompiledGNN:
    """``optimize(compact(mask(model, amount)))``: a smaller, faster GraphModule, exactly the masked model.

    Takes what :func:`mask` takes, and ``callback`` and ``approximate_norms`` as :func:`compact` does; with the latter
    it is not exactly the masked model, where that has norms over channels.

    Raises:
        NothingToPruneError: something was asked to be removed and nothing could be.
        AmountError, PatternError, TraceError, InputError: see :func:`mask`.
    """
    options = MaskOptions(amount, criterion, inputs, constrained, ignore, scope, round_to)
    _check_early(options)
    traced = trace(model, example_inputs, example_kwargs)
    before = {name: value.shape for name, value in traced.state_dict().items()}
    flow = analyse(traced)
    found = survey(flow)
    removals = plan_removals(found, traced, options)
    for removal in removals:
        removal.consumer.zero(traced, removal.removed)
    traced.meta.pop("compacted", None)
    compacted = _compact(traced, record(traced, flow, found, removals), callback, approximate_norms)
    after = {name: value.shape for name, value in compacted.state_dict().items()}
    if any(removal.removed.any() for removal in removals) and before == after:
        raise NothingToPruneError(nothing_to_prune(removals, found.refused))
    return optimize(compacted, callback=callback)


def _check_early(options: MaskOptions) -> None:
    """Tell about a bad amount before anything slow happens."""
    if not isinstance(options.amount, Mapping):
        check_amount(options.amount, "amount")
