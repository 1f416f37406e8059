"""Pruning in steps: a little, train, a little more, until every consumer has lost what one call would have removed.

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

#: Prunes a model, or what an earlier step made of it, by shares of what is left, one per consumer.
PruneAt = Callable[[nn.Module, Amount], CompiledGNN]
#: Called with the model as pruned so far and the number of the step: trains it, in place.
Between = Callable[[CompiledGNN, int], object]


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """In how many steps to prune, and what happens between them; see :func:`upscale_fx.prune`.

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
        """The share that should be gone after a step; after the last the amount itself, whatever powers round to."""
        return amount if step == self.steps else SCHEDULES[self.schedule](amount, step, self.steps)


def prune_in_steps(model: nn.Module, options: MaskOptions, how: StepOptions, prune_at: PruneAt) -> CompiledGNN:
    """Prune in several steps, with training between them, down to what one call at the amount removes.

    After the last step every consumer has lost ``round(amount * channels)`` of its original eligible channels, of each
    head where it has heads, never all of them. Two things can make it fewer: heads that have come to differ in width
    lose equal shares, and ``constrained`` sets are shared. A step is exact: it computes what its model computes with
    the weights of removed channels set to zero. Attention vectors that are folded on the way (GAT's) lose the channels
    that their layer loses, as in one call. With ``scope="global"`` it is the total that is kept to.

    Args:
        model: the model; never touched.
        options: with the amount: the share to remove in all, or a dictionary from name or pattern of the original
            consumers to shares; and with ``inputs``, ``ignore``, ``scope`` and ``constrained``.
        how: how many steps, the schedule, and what is called after every step that removed something but the last
            such, with the model as it is then and the number of the step, from 1. That trains the model in place (an
            optimizer made outside holds the parameters of a larger model: make a new one). Modes it leaves behind are
            put back.
        prune_at: prunes a model by ``{consumer: share of what is left}``; in one step of one, by the amount. It need
            not know of ``ignore``: what is to be kept has a share of 0.

    Returns:
        The model of the last step; its report speaks of the original model.

    Raises:
        AmountError: an amount is not a number in [0, 1).
        PatternError: a pattern that matches no consumer, or an option that does not go with steps.
        NothingToPruneError: something was asked, and no step could remove anything.
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
    if how.steps == 1 or not any(goal.amount for goal in goals.found.values()):
        return prune_at(traced, options.amount)
    final, first = _descend(traced, goals, prune_at, how)
    note(final, pruning=_over_all_steps(goals, first, final))
    return final


def check_in_steps(options: MaskOptions) -> None:
    """Raise PatternError for what pruning in steps cannot do."""
    for name, asked in (("budget", options.budget), ("scheme", options.scheme)):
        if asked is not None:
            raise PatternError(f"steps and {name} do not go together: prune in one step")


def _descend(
    traced: CompiledGNN, goals: Goals, prune_at: PruneAt, how: StepOptions
) -> tuple[CompiledGNN, PruningRecord]:
    """All steps; the model of the last, and what the first recorded of the graph before it."""
    current, first = traced, None
    nothing: NothingToPruneError | None = None
    with progress_bar(total=how.steps, desc="pruning", unit="step", shown=how.progress) as bar:
        for step in range(1, how.steps + 1):
            shares = goals.shares(current, partial(how.share, step))
            bar.set_postfix(parameters=f"{sum(p.numel() for p in current.parameters()):,}")
            if any(shares.values()):
                try:
                    current = _pruned(current, goals, prune_at, shares)
                except NothingToPruneError as error:  # the next step asks for more
                    nothing = error
                else:
                    first = record_of(current).pruning if first is None else first
                    if not any(goals.shares(current, partial(how.share, how.steps)).values()):
                        break  # what later steps ask for rounds to what is gone already
                    if how.between is not None and step < how.steps:
                        _train(how.between, current, step)
            bar.update()
    if first is None:
        raise nothing or NothingToPruneError(
            f"nothing to prune: the amount rounds to no channel in any of {how.steps} steps; prune more at once"
        )
    return current, first


def _pruned(current: CompiledGNN, goals: Goals, prune_at: PruneAt, shares: Mapping[str, float]) -> CompiledGNN:
    """One step: what ``prune_at`` makes of the shares, and then of the folded vectors that follow their layers."""
    compiled = prune_at(current, shares)
    if not goals.follow(compiled):
        return compiled
    graph = trace_model(compiled)
    note(graph, compacted=False)  # it is to be laid out anew
    again = compact_once(graph, CompactOptions())
    note(again, pruning=record_of(compiled).pruning)  # of what was asked: compaction was asked for nothing
    return optimized(unfused(again))


def _train(between: Between, compiled: CompiledGNN, step: int) -> None:
    """Let ``between`` train, and put back the modes it leaves."""
    with modes_kept(compiled):
        between(compiled, step)


def _over_all_steps(goals: Goals, first: PruningRecord, final: CompiledGNN) -> PruningRecord:
    """What a report tells of all steps together, from what the first one recorded and what is left after the last."""
    left = {name: int(removal.eligible.sum()) for name, removal in goals.now(final).items()}
    consumers, amounts = [], []
    for one in first.consumers:
        goal = goals.found[one.name]
        masked = goal.eligible - left.get(one.name, 0)
        asked = goal.asked or max(masked, 0)
        consumers.append(ConsumerRecord(one.name, one.channels, asked, masked, _reason(goal, masked)))
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
    return "fewer go: one channel (of each head) stays, heads lose equal shares, sets are shared"
