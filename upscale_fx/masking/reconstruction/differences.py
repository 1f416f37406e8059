"""What the values of a pruned model lack of the dense model's, where the two can be compared."""

from __future__ import annotations

import torch
from torch import Tensor

from upscale_fx.masking.reconstruction.solve import NotFittedError


def lacking(dense: Tensor, pruned: Tensor) -> Tensor:
    """The dense model's value less the pruned model's, in float32 at least.

    Raises:
        NotFittedError: they have different shapes, or are not real.
    """
    if dense.shape != pruned.shape:
        raise NotFittedError("pruned before it, the model computes other rows than the dense one")
    return real(dense) - pruned if dense.dtype in (torch.float32, torch.float64) else dense.float() - pruned.float()


def real(rows: Tensor) -> Tensor:
    """Rows as they are.

    Raises:
        NotFittedError: they are not real floating-point numbers.
    """
    if not rows.is_floating_point():
        raise NotFittedError(f"what it reads is no real number but {rows.dtype}")
    return rows
