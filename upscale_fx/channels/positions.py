"""Axes, positions, layouts and flows: the data of all channel analyses.

A *value* (a node's result) has row axes (dynamic) and channel axes (static). Its *positions* are its channel axes,
flattened: ``[N, H, C]`` has ``H * C`` positions. Arrays over positions are flat. A *layout* is an array of the value's
full rank; its row axes have size 1, and its entries are the original positions that the compacted value holds, in
order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Scores = Numbers  # one per channel: the lowest go first
Masks = Mapping[fx.Node, Mask]


@dataclass(frozen=True)
class Axes:
    """The axes of a tensor value.

    Attributes:
        sizes: per axis its size, None for row axes.
        pairs: per axis its sizes in the two example graphs.
    """

    sizes: tuple[int | None, ...]
    pairs: tuple[tuple[int, int], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes with 1 for row axes: the shape of a layout that keeps all positions."""
        return tuple(1 if size is None else size for size in self.sizes)

    @property
    def count(self) -> int:
        """Number of positions."""
        return prod(size for size in self.sizes if size is not None)

    @property
    def wide(self) -> list[int]:
        """The axes with more than one position."""
        return [axis for axis, size in enumerate(self.shape) if size > 1]

    def everything(self) -> Positions:
        """Return the layout that keeps all positions in place."""
        return np.arange(self.count, dtype=np.int64).reshape(self.shape)


def axes_of(pair: tuple[Any, Any]) -> Axes | None:
    """Return the axes of a value from its two examples; None unless both are dense tensors of the same rank."""
    first, second = pair
    if not isinstance(first, Tensor) or not isinstance(second, Tensor) or first.layout != torch.strided:
        return None
    one, other = tuple(first.shape), tuple(second.shape)
    if len(one) != len(other):
        return None
    sizes = one if one == other else tuple(a if a == b else None for a, b in zip(one, other, strict=True))
    return Axes(sizes, tuple(zip(one, other, strict=True)))


@dataclass(frozen=True)
class Flow:
    """The map from result positions to source positions: result position ``p`` reads ``index[p]`` (-1: nothing).

    ``axes`` gives the result axis that each source axis corresponds to (None: the source axis has one position).
    """

    source: fx.Node
    index: Positions
    axes: tuple[int | None, ...] = ()

    @property
    def is_identity(self) -> bool:
        """Whether every position maps to itself."""
        count = len(self.index)
        if count and (self.index[0] != 0 or self.index[-1] != count - 1):  # most are told apart by this alone
            return False
        return bool(np.array_equal(self.index, np.arange(count)))

    @property
    def is_one_to_one(self) -> bool:
        """Whether no two result positions read the same source position."""
        used = self.index[self.index >= 0]
        return bool(np.bincount(used).max(initial=0) <= 1)


def boolean_product(left: Mask, right: Mask) -> Mask:
    """Return the matrix product of masks: an entry is true iff some entry of its row and its column are both true."""
    with np.errstate(invalid="ignore"):  # BLAS was seen to raise the flag of an invalid operation on zeros and ones
        product = np.matmul(left.astype(np.float32), right.astype(np.float32))
    result: Mask = np.matmul(left, right) if np.isnan(product).any() else product > 0
    return result
