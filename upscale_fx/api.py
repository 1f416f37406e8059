"""The main calls: trace, mask, compact, optimize, prune."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from upscale_fx.compiled.guards.failures import named_failures
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.ownership import trainable
from upscale_fx.masking.allocation.budget import Budget
from upscale_fx.masking.options import CriterionChoice, MaskOptions
from upscale_fx.passes.base import Callback
from upscale_fx.pruning.evaluation import Evaluate
from upscale_fx.pruning.once import CompactOptions
from upscale_fx.pruning.prune import Example, PruneOptions, compact_model, mask_model, optimize_model, prune_model
from upscale_fx.pruning.steps import Between
from upscale_fx.tracing.stated_axes import StatedAxes
from upscale_fx.tracing.trace import trace_model

Model = TypeVar("Model", bound=nn.Module)


@named_failures
@trainable
def trace(
    model: nn.Module,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_axes: Mapping[str, Any] | None = None,
    indices: Mapping[str, Any] | None = None,
    method: str = "forward",
) -> CompiledGNN:
    """The model as an FX graph: message passing lowered to gathers, messages and aggregations, row counts dynamic.

    Args:
        model: any PyTorch Geometric model; it is copied, never touched.
        example_inputs: positional arguments of one call, such as ``(x, edge_index)`` or ``(data,)``. By default they
            are made up from argument names, declared widths, and the attributes of a ``Data`` that the model reads.
        example_kwargs: keyword arguments of one call, such as ``{"batch": batch}``.
        dynamic_axes: which axes of the examples count rows, where the guess is wrong: ``{"x": {1: "N"}, "pairs":
            {0: "Q"}}``, as in torch.onnx. Equal names are equal numbers; other axes of these arguments are fixed.
        indices: the rows that integers number: ``{"pairs": "N"}``, ``("N", "M")`` for two kinds, None for categories.
        method: the method that is traced, such as ``"encode"``; the graph's ``forward()`` is this method.

    Returns:
        A GraphModule that computes what the model computes on graphs of any size, with the model's parameter names.
        Where the model takes objects, the graph takes them too: ``compiled(data)``, or their attributes as arguments,
        ``compiled(x, edge_index)``. It leaves them as they are; one that the model returns comes back as a copy.

    Raises:
        TraceError: the model cannot be traced; the message has module, source line, reason and remedy.
        InputError: example inputs are missing or do not fit.
    """
    return trace_model(model, example_inputs, example_kwargs, stated=StatedAxes(dynamic_axes, indices), method=method)


@named_failures
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
    dynamic_axes: Mapping[str, Any] | None = None,
    indices: Mapping[str, Any] | None = None,
    method: str = "forward",
) -> Model:
    """A copy of the model, same class, in which every consumer's least important input channels have zero weights.

    It defines what pruning computes: ``compact`` of it computes exactly the same.

    Args:
        model: the model; never touched.
        amount: share of each consumer's eligible input channels to remove, in [0, 1): ``round(amount * channels)``,
            never all; in multi-head layers that share of each head. Or a dictionary from consumer name or pattern
            (``"convs.*"``) to amount: the last match counts, and consumers without a match keep all channels.
        criterion: from weights only ``"l1"``, ``"l2"`` (default without calibration), ``"lamp"``, ``"fpgm"``,
            ``"random"``, or a callable ``(weight [out, in], name) -> scores [in]``; from activations on calibration
            data ``"obs"`` (default with it), ``"lasso"``, ``"activation"``, ``"taylor"``, ``"hrank"``, or an instance
            of their classes (:mod:`upscale_fx.criteria`). The lowest scores are removed, ties by channel number.
        calibration: data to run the model on: one batch as a tuple ``(x, edge_index)``, a dictionary of arguments or a
            ``Data`` object; or a stream of batches as a list, a loader or a generator. Only taylor needs labels. Only
            second moments of the inputs of layers are kept.
        inputs: also prune raw input features. By default only channels with hidden values are eligible.
        constrained: all consumers of a tensor share one set of channels.
        scope: ``"layer"``, or ``"global"``: the amount is a share of all channels together.
        scheme: ``"full"`` (default): classifier and hidden layers; ``"batched"`` (GCNP, Zhou et al. 2021): only raw
            features that come from neighbours; the layer that reads a node's own features keeps all channels.
        budget: instead of an amount, a limit on the cost of the result, such as ``Budget(params=0.25)``: the predicted
            error decides how much each consumer loses, and where consumers share channels.
        round_to: keep a multiple of this many channels (of each head), rounded up.
        ignore: names or patterns of consumers that keep all channels.
        refit: with calibration, fit the kept weights and biases to the outputs of the dense model.
        transform: makes of a calibration batch the arguments of a call: a tuple or a dictionary.
        seed: seed of ``"random"``, and of the edges drawn where a layer reads more than 65,536 of them in a batch.
        progress: show progress bars, where standard error is a terminal; of short calls none.
        example_inputs: positional arguments of one call; see :func:`trace`. By default a calibration batch.
        example_kwargs: keyword arguments of one call.
        dynamic_axes: which axes of the examples count rows; see :func:`trace`.
        indices: the rows that integers of the examples number; see :func:`trace`.
        method: the method that is traced; see :func:`trace`.

    Raises:
        AmountError: there is no amount, an amount is not a number in [0, 1), or a budget cannot be met.
        PatternError: unknown criterion, scope or scheme, or a pattern that matches no consumer.
        InputError: calibration data is missing, empty, does not fit, or makes activations that are not finite.
        NothingToPruneError: no channel can be removed; the message lists every consumer and why.
        TraceError, InputError: see :func:`trace`.
    """
    options = MaskOptions(
        amount=amount, criterion=criterion, calibration=calibration, inputs=inputs, constrained=constrained,
        scope=scope, scheme=scheme, budget=budget, round_to=round_to, ignore=ignore, refit=refit, transform=transform,
        seed=seed, progress=progress,
    )  # fmt: skip
    example = Example(example_inputs, example_kwargs, StatedAxes(dynamic_axes, indices), method)
    return mask_model(model, options, example)


@named_failures
@trainable
def compact(
    model: nn.Module,
    *,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    dynamic_axes: Mapping[str, Any] | None = None,
    indices: Mapping[str, Any] | None = None,
    method: str = "forward",
    callback: Callback | None = None,
    approximate_norms: bool = False,
) -> CompiledGNN:
    """An exact, smaller GraphModule of a model with zero weights, however they were made zero.

    Args:
        model: the model, such as the result of ``mask`` or of ``torch.nn.utils.prune``; never touched.
        example_inputs: positional arguments of one call; see :func:`trace`.
        example_kwargs: keyword arguments of one call.
        dynamic_axes: which axes of the examples count rows; see :func:`trace`.
        indices: the rows that integers of the examples number; see :func:`trace`.
        method: the method that is traced; see :func:`trace`.
        callback: called after every pass with the pass, the graph before and the graph after.
        approximate_norms: not exact. Layer norm, PairNorm, L2 normalisation and other norms over channels keep all
            their channels by default. With this option, channels that no other call reads are removed, and statistics
            are estimated from the ``k`` of ``n`` channels that are kept: a mean over ``k`` stands for the mean over
            ``n``, a sum is scaled by ``n / k``. The error depends on how similar the channels are: ``verify`` against
            the masked model measures the outputs, and only an evaluation measures the cost in accuracy. The report
            names the norms; a model without such norms stays exact.

    Raises:
        TraceError, InputError: see :func:`trace`.
    """
    options = CompactOptions(callback=callback, approximate_norms=approximate_norms)
    example = Example(example_inputs, example_kwargs, StatedAxes(dynamic_axes, indices), method)
    return compact_model(model, options, example)


@named_failures
@trainable
def optimize(
    gm: nn.Module,
    *,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    dynamic_axes: Mapping[str, Any] | None = None,
    indices: Mapping[str, Any] | None = None,
    method: str = "forward",
    callback: Callback | None = None,
    inference: bool = False,
    dtype: torch.dtype | None = None,
    fuse: bool = True,
) -> CompiledGNN:
    """An exact, faster GraphModule that still trains: message passing fused, structure work done once per graph.

    Args:
        gm: the result of ``trace`` or ``compact``, or a model, which is traced first.
        example_inputs: positional arguments of one call, to trace a model; see :func:`trace`.
        example_kwargs: keyword arguments of one call.
        dynamic_axes: which axes of the examples count rows; see :func:`trace`.
        indices: the rows that integers of the examples number; see :func:`trace`.
        method: the method that is traced; see :func:`trace`.
        callback: called after every pass with the pass, the graph before and the graph after.
        inference: the result is for ``eval()`` only, and ``train()`` raises ModeError. Dropout is removed, batch norms
            fold into the layers beside them, and channels with the same value in every row (a pruned channel after
            dropout and batch norm, say) fold into the biases of the layers that read them.
        dtype: not exact. Features and weights are computed in this dtype (``torch.bfloat16``, ``torch.float16``, or
            ``torch.float32`` for a float64 model). Sums over neighbours accumulate in float32, degrees and
            normalisation keep their precision, inputs and outputs their dtype. The report says how far outputs move.
        fuse: False leaves message passing as torch's own calls, where hooks, explainers and second derivatives work.

    Raises:
        InputError: ``dtype`` is not one of these.
        TraceError, InputError: see :func:`trace`.
    """
    example = Example(example_inputs, example_kwargs, StatedAxes(dynamic_axes, indices), method)
    return optimize_model(gm, example, callback, inference, dtype, fuse)


@named_failures
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
    dynamic_axes: Mapping[str, Any] | None = None,
    indices: Mapping[str, Any] | None = None,
    method: str = "forward",
    callback: Callback | None = None,
    approximate_norms: bool = False,
    fuse: bool = True,
) -> CompiledGNN:
    """``optimize(compact(mask(model, amount)))``: a smaller, faster GraphModule that computes exactly the masked model.

    Args:
        model: the model; never touched.
        amount: see :func:`mask`, as for all arguments up to ``progress``.
        criterion: how channels are scored.
        calibration: data to run the model on.
        inputs: also prune raw input features.
        constrained: all consumers of a tensor share one set of channels.
        scope: what the amount is a share of.
        scheme: which layers lose channels.
        budget: a limit on the cost of the result, instead of an amount.
        round_to: keep a multiple of this many channels.
        ignore: consumers that keep all channels.
        refit: fit the kept weights.
        transform: makes arguments of a calibration batch.
        seed: seed of ``"random"`` and of the edges drawn from large batches.
        progress: show progress bars.
        steps: the number of steps; together they remove what one step would, and each one refits.
        schedule: how the amount grows over the steps: ``"cubic"``, ``"linear"`` or ``"exponential"``.
        between: called as ``between(compiled, step)`` after every step but the last: fine-tunes the model in place.
        evaluate: instead of an amount, a function that scores a model, higher is better. The largest amount that keeps
            the score within ``max_drop`` of the dense model's is searched for; the report lists the amounts tried.
        max_drop: how much lower the score can be, in its own units.
        tolerance: how finely amounts are tried, in (0, 1).
        example_inputs: positional arguments of one call; see :func:`trace`.
        example_kwargs: keyword arguments of one call.
        dynamic_axes: which axes of the examples count rows; see :func:`trace`.
        indices: the rows that integers of the examples number; see :func:`trace`.
        method: the method that is traced; see :func:`trace`.
        callback: see :func:`compact`.
        approximate_norms: see :func:`compact`: with norms over channels the result is not exactly the masked model.
        fuse: see :func:`optimize`.

    Raises:
        NothingToPruneError: no channel could be removed.
        AmountError, PatternError, TraceError, InputError: see :func:`mask`.
        TargetError, EvaluationError: no amount keeps ``evaluate`` within ``max_drop``, or it did not return a number.
    """
    options = PruneOptions.of(
        amount=amount, criterion=criterion, calibration=calibration, inputs=inputs, constrained=constrained,
        scope=scope, scheme=scheme, budget=budget, round_to=round_to, ignore=ignore, refit=refit, transform=transform,
        seed=seed, progress=progress, steps=steps, schedule=schedule, between=between, evaluate=evaluate,
        max_drop=max_drop, tolerance=tolerance, example_inputs=example_inputs, example_kwargs=example_kwargs,
        dynamic_axes=dynamic_axes, indices=indices, method=method, approximate_norms=approximate_norms,
        callback=callback, fuse=fuse,
    )  # fmt: skip
    return prune_model(model, options)
