"""Search for the largest amount that keeps the score within a drop; every amount tried is recorded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from torch import nn

from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.numbers import is_number
from upscale_fx.compiled.progress import progress_bar
from upscale_fx.compiled.record.trail import Trail, Trial
from upscale_fx.errors import AmountError, NothingToPruneError, TargetError
from upscale_fx.pruning.evaluation import Evaluate, check_evaluate, score_of

#: The first amount tried. Models pruned hard take a fraction of the dense model's time to make and evaluate.
_FIRST = 7 / 8
#: A drop may exceed ``max_drop`` by this share of the dense score: accuracies are float32 means, and those round.
_ROUNDING = 1e-7


@dataclass
class _Search:
    """The state of a search: amounts tried with their scores, and the best model so far (others are freed at once)."""

    prune_at: Callable[[float], CompiledGNN]
    evaluate: Evaluate
    dense: Trail
    bar: Any
    rows: list[Trial] = field(default_factory=list)
    best: CompiledGNN | None = None
    nothing: NothingToPruneError | None = None

    def within(self, amount: float) -> bool:
        """Try one amount. The order of amounts is such that each one within the drop is the largest so far."""
        self.bar.set_postfix(amount=f"{amount:.4g}", refresh=True)
        try:
            compiled = self.prune_at(amount)
        except NothingToPruneError as error:
            self.nothing = error
            row = Trial(amount, self.dense.dense, 0.0, self.dense.parameters, within=True, removed=False)
        else:
            score = score_of(self.evaluate, compiled, f"the model pruned by {amount:.4g}")
            drop = self.dense.dense - score
            allowed = self.dense.max_drop + _ROUNDING * max(1.0, abs(self.dense.dense))
            row = Trial(amount, score, drop, _parameters(compiled), drop <= allowed)
            if row.within:
                self.best = compiled
        self.rows.append(row)
        self.bar.set_postfix(amount=f"{amount:.4g}", value=f"{row.score:.6g}", drop=f"{row.drop:+.4g}")
        self.bar.update()
        return row.within

    @property
    def trail(self) -> Trail:
        """The amounts tried so far."""
        return Trail(tuple(self.rows), self.dense.dense, self.dense.parameters, self.dense.max_drop)


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """Options of the search for the largest amount; see :func:`upscale_fx.prune`.

    Attributes:
        evaluate: the score of a model, higher is better: a number or a tensor of one element. It is called with the
            dense model and every pruned one, each in ``eval()``; all get their modes back.
        max_drop: how much lower than the dense model's a score can be, in units of the score.
        tolerance: the largest gap between the result and the next larger amount that exceeds the drop, in (0, 1).
        progress: show a progress bar with amount and value, where standard error is a terminal.

    Raises:
        TargetError: ``max_drop`` or ``tolerance`` is not a number in its range.
        EvaluationError: ``evaluate`` cannot be called.
    """

    evaluate: Evaluate
    max_drop: float
    tolerance: float = 1 / 64
    progress: bool = True

    def __post_init__(self) -> None:
        check_evaluate(self.evaluate)
        _check(self.max_drop, "max_drop", "how much lower the score may be, a number of at least 0", math.inf)
        _check(self.tolerance, "tolerance", "how finely amounts are tried, a number in (0, 1)", 1.0)
        if self.tolerance == 0:
            raise TargetError("tolerance must be above 0: an amount cannot be found exactly; try 1/64")


def target_of(
    evaluate: Evaluate | None, max_drop: float | None, tolerance: float, progress: bool
) -> TargetOptions | None:
    """The options of a search for an amount; None where no search is asked for.

    Raises:
        AmountError: only one of ``evaluate`` and ``max_drop`` is passed.
        TargetError, EvaluationError: see :class:`TargetOptions`.
    """
    if evaluate is None and max_drop is None:
        return None
    if evaluate is None or max_drop is None:
        missing, given = ("max_drop", "evaluate") if max_drop is None else ("evaluate", "max_drop")
        raise AmountError(f"{given} needs {missing} too: prune(model, evaluate=function, max_drop=0.003)")
    return TargetOptions(evaluate=evaluate, max_drop=max_drop, tolerance=tolerance, progress=progress)


def prune_to_target(
    prune_at: Callable[[float], CompiledGNN], model: nn.Module, options: TargetOptions
) -> tuple[CompiledGNN, Trail]:
    """Search for the largest amount whose model scores at most ``max_drop`` below the dense one.

    Amounts are tried from 7/8 downwards, ``3/4, 1/2, 1/4, 1/8, ...``, until one is within the drop (or, where 7/8 is,
    upwards: ``15/16, ...``), and the gap to the next larger one is halved until it is no wider than ``tolerance``.

    The model that is returned was itself evaluated and is within the drop; every larger amount tried exceeds it.
    Accuracy is not monotone in the amount, so a larger amount that was not tried may be within the drop too; the trail
    lists the amounts tried. The score selects the model, so report the result on other nodes than those it is
    measured on (validation nodes).

    Args:
        prune_at: makes the model of an amount in (0, 1).
        model: the dense model.
        options: the score, and how far it may drop.

    Returns:
        The pruned model, and the amounts tried.

    Raises:
        TargetError: every amount that removes a channel exceeds the drop; the message has the trail.
        EvaluationError: ``evaluate`` did not return one finite number.
        NothingToPruneError: no amount removes a channel. An amount that rounds to no channel counts as within the
            drop.
    """
    evaluate, step = options.evaluate, float(options.tolerance)
    score = score_of(evaluate, model, "the dense model")
    dense = Trail((), score, _parameters(model), float(options.max_drop))
    with progress_bar(desc="pruning to target", unit="model", shown=options.progress) as bar:
        search = _Search(prune_at, evaluate, dense, bar)
        low, high = _probe(search.within, step)
        while high - low > step:
            middle = (low + high) / 2
            low, high = (middle, high) if search.within(middle) else (low, middle)
    if search.best is None:
        _give_up(search)
    return search.best, search.trail


def _probe(within: Callable[[float], bool], step: float) -> tuple[float, float]:
    """The largest amount of the probe within the drop (0 if none is), and the next larger one, which exceeds it."""
    amount, high = _FIRST, 1.0
    if within(amount):
        low = amount
        while 1.0 - low > step:
            amount = (1.0 + low) / 2
            if not within(amount):
                return low, amount
            low = amount
        return low, high
    while amount > step:
        high = amount
        amount = 2 * amount - 1 if amount > 1 / 2 else amount / 2
        if within(amount):
            return amount, high
    return 0.0, amount


def _give_up(search: _Search) -> NoReturn:
    """Raise the error that says why there is no model to return."""
    trail = search.trail
    if search.nothing is not None and not any(row.removed for row in trail.rows):
        raise search.nothing
    smallest = min(row.amount for row in trail.rows)
    least = min((row for row in trail.rows if row.removed), key=lambda row: row.drop)
    raise TargetError(
        f"no amount that removes channels keeps the score within {trail.max_drop:g} of the dense model's "
        f"{trail.dense:.6g}; the least drop was {least.drop:.4g}, at amount {least.amount:.4g}:\n{trail}\n"
        f"Allow a larger max_drop, choose channels better (calibration=..., another criterion), fine-tune between "
        f"steps (steps=..., between=...), or try smaller amounts (tolerance below {smallest:.4g})"
    )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _check(value: Any, name: str, what: str, limit: float) -> None:
    if not is_number(value) or not 0 <= float(value) < limit:  # NaN fails both comparisons
        raise TargetError(f"{name} is {what}; got {value!r}")
