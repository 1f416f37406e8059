"""Differences between values of the dense and the pruned model."""

from __future__ import annotations

import torch
from torch import Tensor

from upscale_fx.masking.reconstruction.solve import NotFittedError


def lacking(dense: Tensor, pruned: Tensor) -> Tensor:
    """The dense model's value minus the pruned model's, at least in float32.

    Raises:
        NotFittedError: their shapes differ, or they are not real.
    """
    if dense.shape != pruned.shape:
        raise NotFittedError("the pruned model computes other rows than the dense one")
    return real(dense) - pruned if dense.dtype in (torch.float32, torch.float64) else dense.float() - pruned.float()


def real(rows: Tensor) -> Tensor:
    """The rows, checked.

    Raises:
        NotFittedError: they are not real floating-point numbers.
    """
    if not rows.is_floating_point():
        raise NotFittedError(f"it reads {rows.dtype}, not real floating-point numbers")
    return rows
