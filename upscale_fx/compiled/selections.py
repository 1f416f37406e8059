"""Rows selected by value: how many there are depends on the data, so the example graphs must disagree about it.

``nonzero`` may find as many rows in both examples, none for instance; then the number of rows looks like a fixed width.
The second example is then given one row more: it stays a legal example, for any row may be selected twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from upscale_fx.compiled.calls import target_name

_SELECTING = ("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive")


def selects_rows(target: Any) -> bool:
    """Whether how many rows a call returns depends on tensor values."""
    return target_name(target) in _SELECTING


def told_apart(target: Any, pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """A pair of results in which the numbers of selected rows differ."""
    first, second = pair
    if not selects_rows(target):
        return pair
    if isinstance(first, tuple):
        count = len(first[0])
        grown = [_one_more(b) if len(a) == len(b) == count else b for a, b in zip(first, second, strict=True)]
        return first, tuple(grown)
    return (first, _one_more(second)) if first.dim() and len(first) == len(second) else pair


def _one_more(rows: Tensor) -> Tensor:
    extra = rows[-1:] if len(rows) else rows.new_zeros((1, *rows.shape[1:]))
    return torch.cat([rows, extra])
