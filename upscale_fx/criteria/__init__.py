"""Importance criteria: how much a consumer would miss each of its input channels.

A criterion is a callable ``(weight [out, in], name) -> scores [in]``; the lowest scores go first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor

from upscale_fx.criteria.geometric import fpgm
from upscale_fx.criteria.lamp import lamp
from upscale_fx.criteria.magnitude import l1, l2
from upscale_fx.criteria.random import random
from upscale_fx.errors import PatternError

Criterion = Callable[[Tensor, str], Tensor]

#: Criteria by name.
CRITERIA: dict[str, Criterion] = {"l1": l1, "l2": l2, "lamp": lamp, "fpgm": fpgm, "random": random}


def resolve_criterion(criterion: object) -> Criterion:
    """A criterion by name (default ``"l2"``) or itself.

    Raises:
        PatternError: no criterion has that name.
    """
    if criterion is None:
        return l2
    if callable(criterion):
        return cast(Criterion, criterion)
    if not isinstance(criterion, str) or criterion not in CRITERIA:
        raise PatternError(
            f"unknown criterion {criterion!r}: choose from {sorted(CRITERIA)} or pass a callable "
            f"(weight [out, in], name) -> scores [in]"
        )
    return CRITERIA[criterion]


__all__ = ["CRITERIA", "Criterion", "fpgm", "l1", "l2", "lamp", "random", "resolve_criterion"]
