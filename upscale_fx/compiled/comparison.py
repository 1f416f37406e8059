"""The difference between two outputs of a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from upscale_fx.compiled.objects.results import tensors_of


def largest_difference(expected: Any, actual: Any) -> float:
    """Return the largest absolute difference between tensors of two outputs, relative to the largest value or 1.

    Infinity if the outputs differ in structure, shapes, NaNs or values other than tensors.
    """
    first, second = tensors_of(expected), tensors_of(actual)
    if len(first) != len(second):
        return float("inf")
    worst = 0.0
    for a, b in zip(first, second, strict=True):
        if not isinstance(a, Tensor):
            worst = worst if a == b else float("inf")
            continue
        if not isinstance(b, Tensor) or a.shape != b.shape:
            return float("inf")
        if a.numel() and not torch.equal(a, b):
            x, y = a.detach().double(), b.detach().double()
            same = (x == y) | (x.isnan() & y.isnan())
            gap = torch.where(same, torch.zeros_like(x), (x - y).abs())
            scale = max(1.0, float(x[x.isfinite()].abs().max()) if bool(x.isfinite().any()) else 1.0)
            worst = max(worst, float("inf") if bool(gap.isnan().any()) else float(gap.max()) / scale)
    return worst
