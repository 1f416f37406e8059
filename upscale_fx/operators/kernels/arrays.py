"""Tensors as what compiled loops take: a flat array that starts where the tensor starts, and strides."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor


class StridedRows(NamedTuple):
    """A tensor ``[M, ...]`` as ``flat[j * row + h * head + c]``; nothing was copied if its last axis is contiguous."""

    flat: Any
    row: int
    head: int
    heads: int
    channels: int


def flat(x: Tensor) -> Any:
    """A tensor's numbers as a flat array; a copy if they lie apart."""
    if x.requires_grad:
        x = x.detach()
    array: Any = (x if x.is_contiguous() else x.contiguous()).numpy()
    return array if array.ndim == 1 else array.reshape(-1)


def strided_rows(x: Tensor, *, per_head: bool) -> StridedRows:
    """Read a tensor ``[M, ...]`` in place where it can be.

    Args:
        x: at least two axes.
        per_head: it is ``[M, H, C]`` and heads must be told apart; otherwise they are joined if they lie together.
    """
    if x.is_contiguous():
        heads = x.size(1) if per_head else 1
        channels = math.prod(x.shape[1:]) // heads if heads else x.size(2)
        return StridedRows(flat(x), heads * channels, channels, heads, channels)
    if x.dim() > 3 or (x.size(-1) > 1 and x.stride(-1) != 1):
        return strided_rows(x.contiguous(), per_head=per_head)
    heads, channels = (x.size(1), x.size(2)) if x.dim() == 3 else (1, x.size(1))
    row, head = x.stride(0), x.stride(1) if x.dim() == 3 else channels
    extent = (x.size(0) - 1) * row + (heads - 1) * head + channels
    array = torch.as_strided(x.detach(), (extent,), (1,)).numpy()
    if not per_head and (heads == 1 or head == channels):
        heads, channels, head = 1, heads * channels, heads * channels
    return StridedRows(array, row, head, heads, channels)
