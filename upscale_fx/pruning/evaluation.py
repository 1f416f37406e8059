"""The score of a model: one number from the user's function, computed in ``eval()`` and checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from upscale_fx.compiled.numbers import is_number
from upscale_fx.compiled.undisturbed import in_mode
from upscale_fx.errors import EvaluationError

#: The score of a model, such as its accuracy on validation nodes: higher is better.
Evaluate = Callable[[nn.Module], Any]


def check_evaluate(evaluate: Any) -> None:
    """Raise EvaluationError unless it can be called."""
    if not callable(evaluate):
        raise EvaluationError(
            f"evaluate must be a function from a model to a number (higher is better), got a {type(evaluate).__name__}"
        )


def score_of(evaluate: Evaluate, module: nn.Module, name: str) -> float:
    """The number that ``evaluate`` gives a module in ``eval()``; every layer gets its mode back afterwards.

    Args:
        evaluate: returns a number, or a tensor of one element.
        module: the model to evaluate. Only its modes are restored; other changes by ``evaluate`` stay.
        name: how errors call the module.

    Raises:
        EvaluationError: the result is not a number, NaN or infinite.
    """
    check_evaluate(evaluate)
    with in_mode(module, training=False):
        returned = evaluate(module)
    value: Any = returned
    if isinstance(returned, Tensor):
        if returned.numel() != 1 or returned.is_complex():
            raise EvaluationError(
                f"evaluate returned a tensor of shape {list(returned.shape)} and {returned.dtype} for {name}; expected "
                f"one real number: .mean() turns one per node into one"
            )
        value = returned.item()
    if not is_number(value):
        raise EvaluationError(f"evaluate returned a {type(returned).__name__} for {name}; expected one number")
    if not math.isfinite(float(value)):
        raise EvaluationError(
            f"evaluate returned {float(value)} for {name}; expected a finite number. Check what it divides by, and the "
            f"model's outputs"
        )
    return float(value)
