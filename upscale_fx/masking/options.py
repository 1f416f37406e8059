"""What the user asked for, and whether that can be asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from upscale_fx.compiled.numbers import is_integer, is_number
from upscale_fx.errors import AmountError, PatternError
from upscale_fx.masking.allocation.budget import Budget
from upscale_fx.masking.consumers.schemes import SCHEMES
from upscale_fx.masking.criteria import Criterion, OutputCriterion, ReconstructionCriterion, resolve_criterion

Amount = float | Mapping[str, float]
CriterionChoice = str | Criterion | ReconstructionCriterion | OutputCriterion | None


@dataclass(frozen=True)
class MaskOptions:
    """What the user asked for; see :func:`upscale_fx.mask`."""

    amount: Amount | None
    criterion: CriterionChoice = None
    inputs: bool = False
    constrained: bool = False
    ignore: Sequence[str] = ()
    scope: str = "layer"
    round_to: int = 1
    calibration: Any = None
    transform: Callable[[Any], Any] | None = None
    refit: bool = True
    seed: int = 0
    progress: bool = True
    budget: Budget | None = None
    scheme: str | None = None


def check_amount(amount: Any, name: str) -> float:
    """The amount as a float; raises AmountError unless it is a number in [0, 1)."""
    if is_number(amount) and 0 <= float(amount) < 1:  # NaN fails both comparisons
        return float(amount)
    raise AmountError(
        f"{name} must be a number in [0, 1): the share of each consumer's channels to remove, got {amount!r}"
    )


def check_options(options: MaskOptions, sought: bool = False) -> None:
    """Tell about what cannot be asked for before anything slow happens; ``sought``: the amount is searched for.

    Raises:
        AmountError, PatternError: see :func:`upscale_fx.mask`.
    """
    amount, budget = options.amount, options.budget
    seed: Any = options.seed
    if not is_integer(seed):
        raise PatternError(f"seed must be an integer, got {seed!r}")
    transform: Any = options.transform
    if transform is not None and (not callable(transform) or options.calibration is None):
        raise PatternError("transform takes a function from a calibration batch to arguments; pass calibration= too")
    if budget is not None and not isinstance(budget, Budget):
        raise AmountError(f"budget takes a upscale_fx.Budget, as in Budget(params=0.25), got {budget!r}")
    given = (amount is not None) + (budget is not None) + sought
    if given > 1:
        raise AmountError(
            "pass one of amount, budget and evaluate (with max_drop): each of them says how much is to go"
        )
    if not given:
        raise AmountError("how much is to go? Pass an amount in [0, 1), a budget, or evaluate and max_drop; got None")
    _check_kinds(options)
    if options.scope not in ("layer", "global"):
        raise PatternError(f"unknown scope {options.scope!r}: choose 'layer' or 'global'")
    if options.scheme is not None and options.scheme not in SCHEMES:
        raise PatternError(f"unknown scheme {options.scheme!r}: choose one of {', '.join(map(repr, SCHEMES))}")
    if options.scheme is not None and options.inputs:
        raise PatternError("a scheme says which raw inputs may go: leave inputs out")
    round_to: Any = options.round_to
    if not is_integer(round_to) or int(round_to) < 1:
        raise AmountError(f"round_to must be a positive integer, got {options.round_to!r}")
    resolve_criterion(options.criterion, options.calibration is not None)
    if budget is not None and (options.scope != "layer" or options.round_to != 1):
        raise PatternError("a budget decides by itself how much each layer loses: leave scope and round_to out")


def _check_kinds(options: MaskOptions) -> None:
    """Raise where an amount is none, or a switch neither on nor off."""
    if options.amount is not None and not isinstance(options.amount, Mapping):
        check_amount(options.amount, "amount")
    for name in ("inputs", "constrained", "refit"):
        if not isinstance(getattr(options, name), Integral | np.bool_):
            raise PatternError(f"{name} must be True or False, got {getattr(options, name)!r}")
