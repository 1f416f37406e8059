"""Pruning in steps: a little, train, a little more, until every consumer has lost what one call would have removed.

The share removed after step ``k`` of ``n`` follows a schedule towards the amount ``a``: ``a (1 - (1 - k/n)^3)``
("cubic": Zhu and Gupta 2017, arXiv:1710.01878, equation 1, from nothing at step 0), ``a k/n`` ("linear"), or
``1 - (1 - a)^(k/n)`` ("exponential": every step removes the same share of what is left).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.numbers import is_integer
from upscale_fx.compiled.progress import progress_bar
from upscale_fx.compiled.undisturbed import modes_kept
from upscale_fx.errors import AmountError, InputError, NothingToPruneError, PatternError
from upscale_fx.masking.options import Amount, MaskOptions, check_amount
from upscale_fx.pruning.goals import SCHEDULES, Goal, Goals
from upscale_fx.tracing.trace import trace_model

#: Prunes a model, or what an earlier step made of it, by shares of what is left, one per consumer.
PruneOnce = Callable[[nn.Module, Amount], CompiledGNN]
#: Called with the model as pruned so far and the number of the step: trains it, in place.
Between = Callable[[CompiledGNN, int], object]


def prune_in_steps(
    model: nn.Module,
    amount: Amount,
    steps: int,
    prune_once: PruneOnce,
    between: Between | None = None,
    schedule: str = "cubic",
    progress: bool = True,
    *,
    inputs: bool = False,
    ignore: str | Sequence[str] = (),
    scope: str = "layer",
    constrained: bool = False,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
) -> CompiledGNN:
    """Prune in several steps, with training between them, down to what one call at ``amount`` removes.

    After the last step every consumer has lost ``round(amount * channels)`` of its original eligible channels, of each
    head where it has heads, never all of them. Two things can make it fewer: heads that have come to differ in width
    lose equal shares, and ``constrained`` sets are shared. A step is exact: it computes what its model computes with
    the weights of removed channels set to zero. Attention vectors that are folded on the way (GAT's) lose the channels
    that their layer loses, as in one call. With ``scope="global"`` it is the total that is kept to.

    Args:
        model: the model; never touched.
        amount: share to remove in all, or a dictionary from name or pattern of the original consumers to shares.
        steps: how many steps, at least 1.
        prune_once: prunes a model by ``{consumer: share of what is left}``; in one step of one, by ``amount``. It need
            not know of ``ignore``: what is to be kept has a share of 0.
        between: called after every step that removed something but the last such, with the model as it is then and
            the number of the step, from 1. It trains the model in place (an optimizer made outside holds the
            parameters of a larger model: make a new one). Modes it leaves behind are put back.
        schedule: ``"cubic"``, ``"linear"`` or ``"exponential"``; see the module.
        progress: show a progress bar, where standard error is a terminal.
        inputs: as for ``prune``; what ``prune_once`` is told too.
        ignore: as for ``prune``.
        scope: as for ``prune``; what ``prune_once`` is told too.
        constrained: as for ``prune``; what ``prune_once`` is told too.
        example_inputs: as for ``prune``.
        example_kwargs: as for ``prune``.

    Returns:
        The model of the last step; its report speaks of the original model.

    Raises:
        AmountError: ``steps`` is not a positive integer, or an amount is not a number in [0, 1).
        InputError: ``between`` cannot be called.
        PatternError: unknown schedule, or a pattern that matches no consumer.
        NothingToPruneError: something was asked, and no step could remove anything.
    """
    count = _checked_steps(steps)
    if schedule not in SCHEDULES:
        raise PatternError(f"unknown schedule {schedule!r}: choose one of {', '.join(map(repr, SCHEDULES))}")
    if between is not None and not callable(between):
        raise InputError(
            f"between takes a function (model as pruned so far, number of the step), got a {type(between).__name__}"
        )
    if not isinstance(amount, Mapping):
        check_amount(amount, "amount")
    traced = trace_model(model, example_inputs, example_kwargs)
    goals = Goals.of(traced, MaskOptions(amount, None, inputs, constrained, ignore, scope))
    if count == 1 or not any(goal.amount for goal in goals.found.values()):
        return prune_once(traced, amount)
    final, first = _descend(traced, goals, prune_once, between, (schedule, count, progress))
    final.meta["report"] = {**final.meta["report"], **_told(goals, first, final)}
    return final


def _checked_steps(steps: Any) -> int:
    if not is_integer(steps) or int(steps) < 1:
        raise AmountError(f"steps must be an integer of at least 1, got {steps!r}")
    return int(steps)


def _descend(
    traced: CompiledGNN, goals: Goals, prune_once: PruneOnce, between: Between | None, how: tuple[str, int, bool]
) -> tuple[CompiledGNN, Mapping[str, Any]]:
    """All steps; the model of the last, and what the first recorded of the graph before it."""
    schedule, count, progress = how
    current, first = traced, None
    nothing: NothingToPruneError | None = None
    with progress_bar(total=count, desc="pruning", unit="step", shown=progress) as bar:
        for step in range(1, count + 1):
            shares = goals.shares(current, partial(_share, schedule, step, count))
            bar.set_postfix(parameters=f"{sum(p.numel() for p in current.parameters()):,}")
            if any(shares.values()):
                try:
                    current = _pruned(current, goals, prune_once, shares)
                except NothingToPruneError as error:  # the next step asks for more
                    nothing = error
                else:
                    first = current.meta["report"] if first is None else first
                    if not any(goals.shares(current, partial(_share, schedule, count, count)).values()):
                        break  # what later steps ask for rounds to what is gone already
                    if between is not None and step < count:
                        _train(between, current, step)
            bar.update()
    if first is None:
        raise nothing or NothingToPruneError(
            f"nothing to prune: the amount rounds to no channel in any of {count} steps; prune more at once"
        )
    return current, first


def _pruned(current: CompiledGNN, goals: Goals, prune_once: PruneOnce, shares: Mapping[str, float]) -> CompiledGNN:
    """One step: what ``prune_once`` makes of the shares, and then of the folded vectors that follow their layers."""
    compiled = prune_once(current, shares)
    if not goals.follow(compiled):
        return compiled
    from upscale_fx.api import compact, optimize  # noqa: PLC0415 - whose prune() calls this module

    compiled.meta.pop("compacted", None)  # it is to be laid out anew
    again = compact(compiled)
    again.meta["report"] = compiled.meta["report"]  # of what was asked: compact() was asked for nothing
    return optimize(again)


def _share(schedule: str, step: int, count: int, amount: float) -> float:
    """The share that should be gone; after the last step the amount itself, whatever powers round to."""
    return amount if step == count else SCHEDULES[schedule](amount, step, count)


def _train(between: Between, compiled: CompiledGNN, step: int) -> None:
    """Let ``between`` train, and put back the modes it leaves."""
    with modes_kept(compiled):
        between(compiled, step)


def _told(goals: Goals, first: Mapping[str, Any], final: CompiledGNN) -> dict[str, object]:
    """What a report tells of all steps together, from what the first one recorded and what is left after the last."""
    left = {name: int(removal.eligible.sum()) for name, removal in goals.now(final).items()}
    consumers = []
    amounts = []
    for name, channels, *_ in first["consumers"]:
        goal = goals.found[name]
        masked = goal.eligible - left.get(name, 0)
        consumers.append((name, channels, goal.asked or max(masked, 0), _reason(goal, masked), masked))
        amounts.append(goal.amount)
    share = sum(amounts) / max(len(amounts), 1)
    refused = [(name, channels, round(share * channels), reason) for name, channels, _, reason in first["refused"]]
    return {"consumers": consumers, "refused": refused, "before": first["before"], "unused": first["unused"]}


def _reason(goal: Goal, masked: int) -> str:
    """Why a consumer did not lose more."""
    if goal.reason or masked >= goal.asked:
        return goal.reason
    return "fewer go: one channel (of each head) stays, heads lose equal shares, sets are shared"


def check_steps(options: MaskOptions) -> None:
    """What pruning in steps cannot do; raises PatternError."""
    for name, asked in (("budget", options.budget), ("scheme", options.scheme)):
        if asked is not None:
            raise PatternError(f"steps and {name} do not go together: prune in one step")
