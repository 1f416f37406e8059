"""Pruning in steps, with training between them, until every consumer has lost what one call would remove.

The share removed after step ``k`` of ``n`` follows a schedule towards the amount ``a``: ``a (1 - (1 - k/n)^3)``
("cubic": Zhu and Gupta 2017, arXiv:1710.01878, equation 1, from nothing at step 0), ``a k/n`` ("linear"), or
``1 - (1 - a)^(k/n)`` ("exponential": every step removes the same share of what is left).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from upscale_fx.compiled.module import CompiledGNN, note, record_of, unfused
from upscale_fx.compiled.numbers import is_integer
from upscale_fx.compiled.progress import progress_bar
from upscale_fx.compiled.record import ConsumerRecord, PruningRecord, UnmaskableRecord
from upscale_fx.compiled.undisturbed import modes_kept
from upscale_fx.errors import AmountError, InputError, NothingToPruneError, PatternError
from upscale_fx.masking.options import Amount, MaskOptions
from upscale_fx.pruning.goals import SCHEDULES, Goal, Goals
from upscale_fx.pruning.once import CompactOptions, compact_once
from upscale_fx.pruning.optimization import optimized
from upscale_fx.tracing.trace import trace_model

#: Prunes a model, or the graph of an earlier step, by one share of its present channels per consumer.
PruneAt = Callable[[nn.Module, Amount], CompiledGNN]
#: Trains the model as pruned so far, in place; called with it and the number of the step.
Between = Callable[[CompiledGNN, int], object]


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """The number of steps, and what happens between them; see :func:`upscale_fx.prune`.

    Raises:
        AmountError: ``steps`` is not a positive integer.
        InputError: ``between`` cannot be called.
        PatternError: unknown schedule, or ``between`` without a second step.
    """

    steps: int = 1
    schedule: str = "cubic"
    between: Between | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        steps: Any = self.steps
        between: Any = self.between
        if not is_integer(steps) or int(steps) < 1:
            raise AmountError(f"steps must be an integer of at least 1, got {steps!r}")
        if self.schedule not in SCHEDULES:
            raise PatternError(f"unknown schedule {self.schedule!r}: choose one of {', '.join(map(repr, SCHEDULES))}")
        if between is not None and not callable(between):
            raise InputError(
                f"between takes a function (model as pruned so far, number of the step), got a {type(between).__name__}"
            )
        if between is not None and steps == 1:
            raise PatternError("between is called between steps: pass steps=2 or more too")

    def share(self, step: int, amount: float) -> float:
        """The share that must be removed after a step; after the last, exactly the amount."""
        return amount if step == self.steps else SCHEDULES[self.schedule](amount, step, self.steps)


def prune_in_steps(model: nn.Module, options: MaskOptions, how: StepOptions, prune_at: PruneAt) -> CompiledGNN:
    """Prune in several steps, with training between them, down to what one call at the amount removes.

    After the last step every consumer has lost ``round(amount * channels)`` of its original eligible channels, of each
    head where it has heads, never all of them. It can be fewer for two reasons: heads of different widths lose equal
    shares, and ``constrained`` sets are shared. Each step is exact: its graph computes what the model before it
    computes with the weights of removed channels set to zero. Attention vectors that a step folds (GAT's) lose the
    channels that their layer loses, as in one call. With ``scope="global"`` only the total is fixed.

    Args:
        model: the model; never touched.
        options: the amount (the share to remove in all, or a dictionary from names or patterns of the original
            consumers to shares), ``inputs``, ``ignore``, ``scope`` and ``constrained``.
        how: the number of steps, the schedule, and ``between``: called after every step that removed channels except
            the last one, with the model after that step and the number of the step, from 1. It trains the model in
            place. It must make a new optimizer: an earlier one holds the parameters of a larger model. Modes that it
            changes are put back.
        prune_at: prunes a model by ``{consumer: share of its present channels}``; if there is only one step, by the
            amount. It can leave out ``ignore``: ignored consumers have a share of 0.

    Returns:
        The model of the last step; its report compares it with the original model.

    Raises:
        AmountError: an amount is not a number in [0, 1).
        PatternError: a pattern matches no consumer, or an option cannot be combined with steps.
        NothingToPruneError: the amount is above 0, and no step could remove a channel.
    """
    check_in_steps(options)
    assert options.amount is not None
    traced = trace_model(model)
    goals = Goals.of(
        traced,
        MaskOptions(
            amount=options.amount,
            inputs=options.inputs,
            constrained=options.constrained,
            ignore=options.ignore,
            scope=options.scope,
        ),
    )
    if how.steps == 1 or not any(goal.amount for goal in goals.by_name.values()):
        return prune_at(traced, options.amount)
    final, first = _descend(traced, goals, prune_at, how)
    note(final, pruning=_over_all_steps(goals, first, final))
    return final


def check_in_steps(options: MaskOptions) -> None:
    """Raise PatternError for options that pruning in steps does not support."""
    for name, asked in (("budget", options.budget), ("scheme", options.scheme)):
        if asked is not None:
            raise PatternError(f"steps and {name} do not go together: prune in one step")


def _descend(
    traced: CompiledGNN, goals: Goals, prune_at: PruneAt, how: StepOptions
) -> tuple[CompiledGNN, PruningRecord]:
    """Take all steps; the model of the last one, and the record of the first, which has the original graph."""
    current, first = traced, None
    failure: NothingToPruneError | None = None
    with progress_bar(total=how.steps, desc="pruning", unit="step", shown=how.progress) as bar:
        for step in range(1, how.steps + 1):
            shares = goals.shares(current, partial(how.share, step))
            bar.set_postfix(parameters=f"{sum(p.numel() for p in current.parameters()):,}")
            if any(shares.values()):
                try:
                    current = _pruned(current, goals, prune_at, shares)
                except NothingToPruneError as error:  # the next step asks for more
                    failure = error
                else:
                    first = record_of(current).pruning if first is None else first
                    if not any(goals.shares(current, partial(how.share, how.steps)).values()):
                        break  # later steps would remove nothing more, by rounding
                    if how.between is not None and step < how.steps:
                        _train(how.between, current, step)
            bar.update()
    if first is None:
        raise failure or NothingToPruneError(
            f"nothing to prune: the amount rounds to no channel in any of {how.steps} steps; prune more at once"
        )
    return current, first


def _pruned(current: CompiledGNN, goals: Goals, prune_at: PruneAt, shares: Mapping[str, float]) -> CompiledGNN:
    """One step: prune by the shares, then remove the channels of folded vectors that their layers lost."""
    compiled = prune_at(current, shares)
    if not goals.follow(compiled):
        return compiled
    graph = trace_model(compiled)
    note(graph, compacted=False)  # it gets a new layout
    again = compact_once(graph, CompactOptions())
    note(again, pruning=record_of(compiled).pruning)  # the record of the amounts asked: compaction has none
    return optimized(unfused(again), fuse=record_of(compiled).fused is not None)


def _train(between: Between, compiled: CompiledGNN, step: int) -> None:
    """Let ``between`` train, and put back the modes that it changed."""
    with modes_kept(compiled):
        between(compiled, step)


def _over_all_steps(goals: Goals, first: PruningRecord, final: CompiledGNN) -> PruningRecord:
    """The record of all steps together, from the record of the first and the channels left after the last."""
    left = {name: int(removal.eligible.sum()) for name, removal in goals.now(final).items()}
    consumers, amounts = [], []
    for consumer in first.consumers:
        goal = goals.by_name[consumer.name]
        masked = goal.eligible - left.get(consumer.name, 0)
        asked = goal.asked or max(masked, 0)
        consumers.append(ConsumerRecord(consumer.name, consumer.channels, asked, masked, _reason(goal, masked)))
        amounts.append(goal.amount)
    share = sum(amounts) / max(len(amounts), 1)
    refused = [UnmaskableRecord(u.name, u.channels, round(share * u.channels), u.reason) for u in first.refused]
    last = record_of(final).pruning
    assert last is not None
    return replace(last, consumers=consumers, refused=refused, before=first.before, unused=first.unused)


def _reason(goal: Goal, masked: int) -> str:
    """Why a consumer did not lose more."""
    if goal.reason or masked >= goal.asked:
        return goal.reason
    return "fewer removed: one channel (of each head) stays, heads lose equal shares, sets are shared"
