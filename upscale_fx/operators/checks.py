"""Checks of operator arguments, which run before the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

REDUCTIONS = ("sum", "mean", "max", "min")


def check_structure(rowptr: Tensor, col: Tensor | None) -> None:
    """Raise a ValueError unless these can be the two arrays of a sorted graph; kernels check the entries."""
    if rowptr.dtype != torch.int64 or rowptr.dim() != 1 or rowptr.numel() == 0:
        raise ValueError(f"rowptr must be int64 [N + 1], got {describe(rowptr)}")
    if col is not None and (col.dtype != torch.int64 or col.dim() != 1):
        raise ValueError(f"col must be int64 [E], got {describe(col)}")


def check_weight(weight: Tensor | None, x: Tensor, num_edges: int) -> None:
    """Raise a ValueError unless ``weight`` fits the edges: ``[E]``, or ``[E, H]`` if ``x`` is ``[M, H, C]``."""
    if x.dim() < 2:
        raise ValueError(f"x must be [M, C] or have more trailing axes, got {describe(x)}")
    if weight is None:
        return
    shape = (num_edges,) if weight.dim() == 1 else (num_edges, x.size(1))
    if weight.shape != shape or (weight.dim() == 2 and x.dim() != 3):
        raise ValueError(
            f"weight must be [E] or, with x [M, H, C], [E, H] for E = {num_edges} edges; "
            f"got {describe(weight)} and x {describe(x)}"
        )


def check_heads(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless ``value`` has this shape."""
    if value.shape != shape:
        raise ValueError(f"{name} must be {list(shape)}, got {describe(value)}")


def describe(value: Tensor) -> str:
    """Return dtype and shape as text, for messages."""
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
