"""Rows that are selected by value (``nonzero``): their number depends on the data, so it must differ between examples.

So must that of a parameter with a row per node (``rows_of``), whose rows are no channels.

``nonzero`` may select as many rows in both example graphs, for instance 0; then the row axis looks like a fixed width.
In this case the second example gets one more row. It stays legal, because a row may be selected twice.

A model that then cannot be traced may fix the number itself: 8 nodes of each graph, one weight for each. For such a
model the number is taken for a width (``ModelInputs.chosen``), and the trace is checked on other graphs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from upscale_fx.compiled.calls import target_name

_SELECTING = ("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "rows_of")


def selects_rows(target: Any) -> bool:
    """Whether the number of rows that a call returns depends on tensor values."""
    return target_name(target) in _SELECTING


def with_unequal_counts(target: Any, pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return the pair of results with different numbers of selected rows."""
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
