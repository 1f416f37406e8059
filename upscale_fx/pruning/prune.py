"""The calls behind :mod:`upscale_fx.api`: each takes options, already checked, and runs the passes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, cast

import torch
from torch import nn

from upscale_fx.compiled.module import CompiledGNN, note, record_of, unfused
from upscale_fx.compiled.ownership import empty_caches, own_copy
from upscale_fx.compiled.progress import stages
from upscale_fx.errors import AmountError
from upscale_fx.masking.options import Amount, MaskOptions, check_one_goal
from upscale_fx.passes.base import Callback
from upscale_fx.pruning.evaluation import Evaluate
from upscale_fx.pruning.first_batch import trace_like
from upscale_fx.pruning.once import CompactOptions, compact_once, plan_of, prune_once
from upscale_fx.pruning.optimization import optimized
from upscale_fx.pruning.steps import Between, StepOptions, check_in_steps, prune_in_steps
from upscale_fx.pruning.target import TargetOptions, prune_to_target, target_of
from upscale_fx.tracing.stated_axes import StatedAxes
from upscale_fx.tracing.trace import trace_model

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Example:
    """The arguments of one call, with which a model is traced, and the method; see :func:`upscale_fx.trace`."""

    inputs: Any = None
    kwargs: Mapping[str, Any] | None = None
    stated: StatedAxes | None = None
    method: str = "forward"


def mask_model(model: Model, options: MaskOptions, example: Example) -> Model:
    """A copy of the model with masked weights; see :func:`upscale_fx.mask`."""
    check_one_goal(options)
    with stages("mask", shown=options.progress):
        traced = trace_like(
            model,
            example.inputs,
            example.kwargs,
            options.calibration,
            options.transform,
            example.stated,
            example.method,
        )
        masked = cast(Model, own_copy(model))
        empty_caches(masked)  # they hold what the dense model computed for one graph
        plan_of(traced, options).apply(masked)
    return masked


def compact_model(model: nn.Module, options: CompactOptions, example: Example) -> CompiledGNN:
    """A smaller graph of a model with zeros in it; see :func:`upscale_fx.compact`."""
    with stages("compact"):
        traced = trace_model(model, example.inputs, example.kwargs, stated=example.stated, method=example.method)
        return compact_once(traced, options)


def optimize_model(
    model: nn.Module,
    example: Example,
    callback: Callback | None = None,
    inference: bool = False,
    dtype: torch.dtype | None = None,
    fuse: bool = True,
) -> CompiledGNN:
    """A faster graph; see :func:`upscale_fx.optimize`."""
    with stages("optimize"):
        if isinstance(model, CompiledGNN):
            graph = copy.deepcopy(unfused(model))
        else:
            graph = trace_model(model, example.inputs, example.kwargs, stated=example.stated, method=example.method)
        return optimized(graph, callback, inference, dtype, fuse)


@dataclass(frozen=True)
class PruneOptions:
    """All options of :func:`upscale_fx.prune`, checked.

    Attributes:
        mask: how the channels to remove are chosen.
        compact: how the graph is compacted.
        steps: the number of steps, and what happens between them.
        target: how the amount is searched for; None where the mask options have an amount or a budget.
        example: the arguments of one call.

    Raises:
        AmountError, PatternError: options exclude each other.
    """

    mask: MaskOptions
    compact: CompactOptions
    steps: StepOptions
    target: TargetOptions | None
    example: Example

    def __post_init__(self) -> None:
        check_one_goal(self.mask, sought=self.target is not None)
        if self.target is not None and self.steps.steps != 1:
            raise AmountError("steps need a given amount: leave them out, or pass an amount instead of evaluate")
        if self.steps.steps != 1:
            check_in_steps(self.mask)

    @classmethod
    def of(
        cls,
        *,
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
        progress: bool = True,
        **mask: Any,
    ) -> PruneOptions:
        """The options from the keyword arguments of :func:`upscale_fx.prune`.

        Raises:
            TypeError: ``prune`` has no argument of that name.
            AmountError, PatternError, InputError, TargetError, EvaluationError: see the dataclasses.
        """
        if unknown := sorted(mask.keys() - {field.name for field in fields(MaskOptions)}):
            raise TypeError(f"prune() got an unexpected keyword argument {unknown[0]!r}")
        return cls(
            MaskOptions(progress=progress, **mask),
            CompactOptions(callback=callback, approximate_norms=approximate_norms, fuse=fuse),
            StepOptions(steps=steps, schedule=schedule, between=between, progress=progress),
            target_of(evaluate, max_drop, tolerance, progress),
            Example(example_inputs, example_kwargs, StatedAxes(dynamic_axes, indices), method),
        )


def prune_model(model: nn.Module, options: PruneOptions) -> CompiledGNN:
    """A smaller, faster graph: in one call, in steps, or by the largest amount that keeps the score within a drop.

    Raises:
        NothingToPruneError, TraceError, InputError, TargetError, EvaluationError: see :func:`upscale_fx.prune`.
    """
    mask, example = options.mask, options.example
    with stages("prune", shown=mask.progress):
        traced = trace_like(
            model, example.inputs, example.kwargs, mask.calibration, mask.transform, example.stated, example.method
        )
        if options.target is None and options.steps.steps == 1:
            return prune_once(traced, mask, options.compact)
    if options.target is not None:
        return _prune_to_target(model, traced, mask, options.compact, options.target)
    in_steps = replace(mask, ignore=())  # ignored consumers have an amount of 0 in every step

    def prune_at(current: nn.Module, shares: Amount) -> CompiledGNN:
        return prune_once(current, replace(in_steps, amount=shares), options.compact)

    return prune_in_steps(traced, mask, options.steps, prune_at)


def _prune_to_target(
    model: nn.Module, traced: CompiledGNN, options: MaskOptions, compact_options: CompactOptions, target: TargetOptions
) -> CompiledGNN:
    """The model of the largest amount within the drop; its report shows all amounts tried."""

    def prune_at(amount: float) -> CompiledGNN:
        return prune_once(traced, replace(options, amount=amount), compact_options)

    best, trail = prune_to_target(prune_at, model, target)
    history = record_of(best).pruning
    assert history is not None
    note(best, pruning=replace(history, trail=trail))
    return best
