"""Dropout that two models of different widths can be compared with: it scales instead of drawing random numbers.

Two models draw alike only if they draw equally many numbers, which a pruned model does not. So within
:func:`steady_dropout` a dropout of rate ``p`` that is on returns ``(1 - p / 2) x``; one that is off returns ``x``. It
shows in the outputs which dropouts are on, and at which rates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from upscale_fx.compiled.undisturbed import attributes_replaced

#: The functions that all dropouts of torch call.
_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")


@contextmanager
def steady_dropout() -> Iterator[None]:
    """Replace the random numbers of torch's dropouts within the block."""
    original = F.scaled_dot_product_attention

    def attention(*args: Any, dropout_p: float = 0.0, **kwargs: Any) -> Tensor:
        args, rate = ((*args[:4], 0.0, *args[5:]), args[4]) if len(args) > 4 else (args, dropout_p)
        result: Tensor = original(*args, **kwargs)
        return result * (1 - rate / 2)

    dropouts = {(torch._VF, name): _scaled(name.endswith("_")) for name in _BOTH}
    with attributes_replaced({**dropouts, (F, "scaled_dot_product_attention"): attention}):
        yield


_BOTH = (*_DROPOUTS, *(f"{name}_" for name in _DROPOUTS))


def _scaled(in_place: bool) -> Callable[[Tensor, float, bool], Tensor]:
    def dropout(input: Tensor, p: float, train: bool) -> Tensor:
        factor = 1 - p / 2 if train else 1.0
        return input.mul_(factor) if in_place else input * factor

    return dropout
