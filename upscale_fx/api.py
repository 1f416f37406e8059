"""The calls users make: trace, mask, compact, optimize, prune."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import nn

from upscale_fx.analysis.dataflow import analyse
from upscale_fx.compiled.batches import Batches
from upscale_fx.compiled.module import CompiledGNN, unfused
from upscale_fx.compiled.ownership import own_copy, trainable
from upscale_fx.errors import PatternError
from upscale_fx.masking.allocation.budget import Budget
from upscale_fx.masking.consumers.survey import survey
from upscale_fx.masking.options import CriterionChoice, MaskOptions, check_options
from upscale_fx.masking.plan import make_plan
from upscale_fx.passes.base import Callback
from upscale_fx.pruning.compaction import CompactedCost
from upscale_fx.pruning.evaluation import Evaluate
from upscale_fx.pruning.once import compact_recorded, prune_once
from upscale_fx.pruning.optimization import optimized
from upscale_fx.pruning.steps import Between, check_steps, prune_in_steps
from upscale_fx.pruning.target import check_target, prune_to_target
from upscale_fx.reports.report import record
from upscale_fx.tracing.trace import trace_like, trace_model

Model = TypeVar("Model", bound=nn.Module)


@trainable
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


@trainable
def mask(
    model: Model,
    amount: float | Mapping[str, float] | None = None,
    *,
    criterion: CriterionChoice = None,
    calibration: Any = None,
    inputs: bool = False,
    constrained: bool = False,
    scope: str = "layer",
    scheme: str | None = None,
    budget: Budget | None = None,
    round_to: int = 1,
    ignore: str | Sequence[str] = (),
    refit: bool = True,
    transform: Callable[[Any], Any] | None = None,
    seed: int = 0,
    progress: bool = True,
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
        criterion: by weights alone ``"l1"``, ``"l2"`` (default without calibration), ``"lamp"``, ``"fpgm"``,
            ``"random"``, or a callable ``(weight [out, in], name) -> scores [in]``; by what the model computes on the
            calibration data ``"obs"`` (default with it), ``"lasso"``, ``"activation"``, ``"taylor"``, ``"hrank"``, or
            an instance of their classes (:mod:`upscale_fx.criteria`). The lowest scores go, ties by channel number.
        calibration: data the model is run on: one batch as a tuple ``(x, edge_index)``, a dictionary of arguments or a
            ``Data`` object; or a stream of batches as a list, a loader or a generator. No labels are needed (but by
            taylor). Only second moments of what layers read are kept.
        inputs: also prune raw input features. Otherwise only channels that carry hidden values are eligible.
        constrained: all consumers of a tensor share one set of channels.
        scope: ``"layer"``, or ``"global"``: the amount is a share of all channels together.
        scheme: ``"full"``, as without: classifier and hidden layers; ``"batched"``: only the raw features that come
            from neighbours (GCNP, Zhou et al. 2021, for batched inference); the layer that reads a node's own
            features stays whole.
        budget: instead of an amount, what the result may cost, such as ``Budget(params=0.25)``: how much each consumer
            loses, and where consumers share channels, is decided by the predicted error.
        round_to: keep a multiple of this many channels (of each head); keeps more rather than fewer.
        ignore: consumer names or patterns that keep everything.
        refit: with calibration, fit the weights and biases that stay to what the dense model computes.
        transform: makes the arguments of a call of a calibration batch: a tuple or a dictionary.
        seed: of the edges that are drawn where a layer reads more than 65,536 of them in a batch, and of ``"random"``.
        progress: show progress bars, where standard error is a terminal.
        example_inputs: positional arguments of one call; see :func:`trace`. A calibration batch serves too.
        example_kwargs: keyword arguments of one call.

    Raises:
        AmountError: an amount is not a number in [0, 1), or there is none, or a budget cannot be met.
        PatternError: unknown criterion, scope or scheme, or a pattern that matches no consumer.
        InputError: calibration data is missing, empty, does not fit, or makes activations that are not finite.
        NothingToPruneError: nothing can be removed; lists every consumer and why.
        TraceError, InputError: see :func:`trace`.
    """
    calibration = Batches.replayed(calibration)
    options = MaskOptions(
        amount, criterion, inputs, constrained, ignore, scope, round_to, calibration, transform, refit, seed, progress,
        budget, scheme,
    )  # fmt: skip
    check_options(options)
    traced = trace_like(model, example_inputs, example_kwargs, options.calibration, transform)
    masked = cast(Model, own_copy(model))
    flow = analyse(traced)
    make_plan(flow, survey(flow), options, CompactedCost(traced)).apply(masked)
    return masked


@trainable
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
    return compact_recorded(traced, record(traced, flow, survey(flow), None), callback, approximate_norms)


@trainable
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
    module = unfused(gm) if isinstance(gm, CompiledGNN) else trace(gm, example_inputs, example_kwargs)
    return optimized(module, callback, inference, dtype)


@trainable
def prune(
    model: nn.Module,
    amount: float | Mapping[str, float] | None = None,
    *,
    criterion: CriterionChoice = None,
    calibration: Any = None,
    inputs: bool = False,
    constrained: bool = False,
    scope: str = "layer",
    scheme: str | None = None,
    budget: Budget | None = None,
    round_to: int = 1,
    ignore: str | Sequence[str] = (),
    refit: bool = True,
    transform: Callable[[Any], Any] | None = None,
    seed: int = 0,
    progress: bool = True,
    steps: int = 1,
    schedule: str = "cubic",
    between: Between | None = None,
    evaluate: Evaluate | None = None,
    max_drop: float | None = None,
    tolerance: float = 1 / 64,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    approximate_norms: bool = False,
) -> CompiledGNN:
    """``optimize(compact(mask(model, amount)))``: a smaller, faster GraphModule, exactly the masked model.

    Args:
        model: the model; never touched.
        amount: see :func:`mask`, like all up to ``progress``.
        criterion: which channels go.
        calibration: data the model is run on.
        inputs: also prune raw input features.
        constrained: all consumers of a tensor share one set of channels.
        scope: what the amount is a share of.
        scheme: which layers lose channels.
        budget: what the result may cost, instead of an amount.
        round_to: keep a multiple of this many channels.
        ignore: consumers that keep everything.
        refit: fit the weights that stay.
        transform: makes arguments of a calibration batch.
        seed: of the edges that are drawn from large batches.
        progress: show progress bars.
        steps: prune in so many steps, each refitted, down to what one step would remove.
        schedule: how the amount grows over the steps: ``"cubic"``, ``"linear"`` or ``"exponential"``.
        between: called as ``between(compiled, step)`` after every step but the last: fine-tunes the model in place.
        evaluate: instead of an amount: what a model is worth, higher is better. The largest amount that keeps it
            within ``max_drop`` of the dense model's is searched for; the report shows what was tried.
        max_drop: by how much ``evaluate`` may be lower, in its own units.
        tolerance: how finely amounts are tried.
        example_inputs: positional arguments of one call; see :func:`trace`.
        example_kwargs: keyword arguments of one call.
        callback: see :func:`compact`.
        approximate_norms: see :func:`compact`: with norms over channels the result is not exactly the masked model.

    Raises:
        NothingToPruneError: something was asked to be removed and nothing could be.
        AmountError, PatternError, TraceError, InputError: see :func:`mask`.
        TargetError, EvaluationError: no amount keeps ``evaluate`` within ``max_drop``, or it returned no number.
    """
    calibration = Batches.replayed(calibration)
    options = MaskOptions(
        amount, criterion, inputs, constrained, ignore, scope, round_to, calibration, transform, refit, seed, progress,
        budget, scheme,
    )  # fmt: skip
    check_options(options, sought=evaluate is not None or max_drop is not None)
    if between is not None and steps == 1:
        raise PatternError("between is called between steps: pass steps=2 or more too")
    traced = trace_like(model, example_inputs, example_kwargs, calibration, transform)
    if steps != 1:
        options = replace(options, ignore=())  # what is ignored has an amount of 0 in every step
    once = partial(prune_once, options=options, callback=callback, approximate_norms=approximate_norms)
    if evaluate is not None or max_drop is not None:
        worth, drop = check_target(evaluate, max_drop, options, steps)
        at = partial(once, traced)
        return prune_to_target(at, worth, model, drop, tolerance=tolerance, progress=progress)[0]
    if steps == 1:
        return once(traced, amount)
    check_steps(options)
    assert amount is not None
    return prune_in_steps(
        traced, amount, steps, once, between, schedule, progress,
        inputs=inputs, ignore=ignore, scope=scope, constrained=constrained,
    )  # fmt: skip
