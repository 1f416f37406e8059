"""Tensors as arguments of compiled loops: a flat array that starts where the tensor starts, and strides."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor


class StridedRows(NamedTuple):
    """A tensor ``[M, ...]`` as ``flat[j * row + h * head + c]``, without a copy if its last axis is contiguous."""

    flat: Any
    row: int
    head: int
    heads: int
    channels: int


def flat(x: Tensor) -> Any:
    """Return a tensor's numbers as a flat array; a copy if the tensor is not contiguous."""
    if x.requires_grad:
        x = x.detach()
    array: Any = (x if x.is_contiguous() else x.contiguous()).numpy()
    return array if array.ndim == 1 else array.reshape(-1)


def strided_rows(x: Tensor, *, per_head: bool) -> StridedRows:
    """Return a tensor ``[M, ...]`` as a flat array and strides, in place if possible.

    Args:
        x: a tensor with at least two axes.
        per_head: ``x`` is ``[M, H, C]`` and the loop needs its heads; otherwise adjacent heads become one.
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
