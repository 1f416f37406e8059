"""The options of masking. They are checked when they are made, so before anything slow happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from upscale_fx.compiled.batches import Batches
from upscale_fx.compiled.numbers import is_integer, is_number
from upscale_fx.errors import AmountError, PatternError
from upscale_fx.masking.allocation.budget import Budget
from upscale_fx.masking.consumers.schemes import SCHEMES
from upscale_fx.masking.criteria import Criterion, OutputCriterion, ReconstructionCriterion, resolve_criterion

Amount = float | Mapping[str, float]
CriterionChoice = str | Criterion | ReconstructionCriterion | OutputCriterion | None


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """How many channels to remove, and how to choose them: the options of :func:`upscale_fx.mask`, with its names.

    ``calibration`` becomes a stream of batches that can be iterated any number of times.

    Raises:
        AmountError: ``amount`` is not a number in [0, 1), ``round_to`` is not a positive integer, ``budget`` is not a
            Budget, or there are both an amount and a budget.
        PatternError: unknown criterion, scope or scheme, a flag is not a bool, or options exclude each other.
        InputError: ``calibration`` is neither a batch nor a stream of batches.
    """

    amount: Amount | None = None
    criterion: CriterionChoice = None
    calibration: Any = None
    inputs: bool = False
    constrained: bool = False
    scope: str = "layer"
    scheme: str | None = None
    budget: Budget | None = None
    round_to: int = 1
    ignore: str | Sequence[str] = ()
    refit: bool = True
    transform: Callable[[Any], Any] | None = None
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "calibration", Batches.replayed(self.calibration))
        _check_data(self)
        _check_how_much(self)
        _check_switches(self)
        _check_names(self)
        resolve_criterion(self.criterion, self.calibration is not None)
        if self.budget is not None and (self.scope != "layer" or self.round_to != 1):
            raise PatternError("a budget decides by itself how much each layer loses: leave scope and round_to out")


def check_amount(amount: Any, name: str) -> float:
    """The amount as a float; raises AmountError unless it is a number in [0, 1)."""
    if is_number(amount) and 0 <= float(amount) < 1:  # NaN fails both comparisons
        return float(amount)
    raise AmountError(
        f"{name} must be a number in [0, 1): the share of each consumer's channels to remove, got {amount!r}"
    )


def check_one_goal(options: MaskOptions, sought: bool = False) -> None:
    """Check that exactly one option says how much to remove; ``sought``: the amount is searched for.

    Raises:
        AmountError: no option does, or several do.
    """
    given = (options.amount is not None) + (options.budget is not None) + sought
    if given > 1:
        raise AmountError(
            "pass one of amount, budget and evaluate (with max_drop): each of them says how much to remove"
        )
    if not given:
        raise AmountError("how much to remove? Pass an amount in [0, 1), a budget, or evaluate and max_drop; got None")


def _check_data(options: MaskOptions) -> None:
    seed: Any = options.seed
    if not is_integer(seed):
        raise PatternError(f"seed must be an integer, got {seed!r}")
    transform: Any = options.transform
    if transform is not None and (not callable(transform) or options.calibration is None):
        raise PatternError("transform takes a function from a calibration batch to arguments; pass calibration= too")


def _check_how_much(options: MaskOptions) -> None:
    budget: Any = options.budget
    if budget is not None and not isinstance(budget, Budget):
        raise AmountError(f"budget takes a upscale_fx.Budget, as in Budget(params=0.25), got {budget!r}")
    if budget is not None and options.amount is not None:
        check_one_goal(options)
    if options.amount is not None and not isinstance(options.amount, Mapping):
        check_amount(options.amount, "amount")
    round_to: Any = options.round_to
    if not is_integer(round_to) or int(round_to) < 1:
        raise AmountError(f"round_to must be a positive integer, got {round_to!r}")


def _check_switches(options: MaskOptions) -> None:
    for name in ("inputs", "constrained", "refit"):
        if not isinstance(getattr(options, name), Integral | np.bool_):
            raise PatternError(f"{name} must be True or False, got {getattr(options, name)!r}")


def _check_names(options: MaskOptions) -> None:
    if options.scope not in ("layer", "global"):
        raise PatternError(f"unknown scope {options.scope!r}: choose 'layer' or 'global'")
    if options.scheme is not None and options.scheme not in SCHEMES:
        raise PatternError(f"unknown scheme {options.scheme!r}: choose one of {', '.join(map(repr, SCHEMES))}")
    if options.scheme is not None and options.inputs:
        raise PatternError("a scheme chooses the raw inputs to remove: leave inputs out")
