"""Floating-point operations of the operators, for ``torch.utils.flop_counter.FlopCounterMode``.

As for torch's own products, one multiplication with one addition counts as 2. Sums without weights count as if every
weight was 1, as a product with a sparse matrix does; comparisons (max and min) count likewise. Softmax, activations
and sorting count nothing, as torch's own do. E is the number of edges, C the number of channels of all heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import flop_counter

from upscale_fx.operators.library import NAMESPACE

Shape = Sequence[int]


def _edges(rowptr: Shape, col: Shape | None, per_edge: Shape) -> int:
    """The number of edges; without ``col``, edge e reads row e."""
    return per_edge[0] if col is None else col[0]


def spmm(rowptr: Shape, col: Shape | None, weight: Shape | None, x: Shape, *rest: Any, **kwargs: Any) -> int:
    """2 E C, for ``x [M, ...]``."""
    return 2 * _edges(rowptr, col, x) * math.prod(x[1:])


def spmm_transposed(
    rowptr: Shape, col: Shape | None, weight: Shape | None, g: Shape, num_cols: int, **kwargs: Any
) -> int:
    """2 E C, for ``g [N, ...]``."""
    return 2 * _edges(rowptr, col, (num_cols,)) * math.prod(g[1:])


def extreme_backward(
    rowptr: Shape, col: Shape | None, weight: Shape | None, x: Shape, *rest: Any, **kwargs: Any
) -> int:
    """2 E C for the gradient of ``x [M, ...]``, and as much for that of weights."""
    return spmm(rowptr, col, weight, x) * (1 if weight is None else 2)


def edge_dot(rowptr: Shape, col: Shape | None, left: Shape, right: Shape, **kwargs: Any) -> int:
    """2 E H C, for ``right [M, H, C]``."""
    return 2 * _edges(rowptr, col, right) * math.prod(right[1:])


def edge_additive_dot(rowptr: Shape, col: Shape | None, left: Shape, right: Shape, *rest: Any, **kwargs: Any) -> int:
    """2 E H C, for ``right [M, H, C]``."""
    return edge_dot(rowptr, col, left, right)


def edge_additive_dot_backward(
    rowptr: Shape, col: Shape | None, left: Shape, right: Shape, *rest: Any, **kwargs: Any
) -> int:
    """4 E H C: the gradient of the logits times the vector, and times what the vector was multiplied with."""
    return 2 * edge_dot(rowptr, col, left, right)


def attend(rowptr: Shape, col: Shape | None, scores: Shape, x: Shape, **kwargs: Any) -> int:
    """2 E C, for ``x [M, ...]``."""
    return spmm(rowptr, col, scores, x)


_FORMULAS: tuple[Callable[..., int], ...] = (
    spmm, spmm_transposed, extreme_backward, edge_dot, edge_additive_dot, edge_additive_dot_backward, attend
)  # fmt: skip


def register_flops() -> None:
    """Register the formulas with torch, once the operators are defined."""
    for formula in _FORMULAS:
        operator = getattr(getattr(torch.ops, NAMESPACE), formula.__name__)
        if operator not in flop_counter.flop_registry:
            flop_counter.register_flop_formula(operator)(formula)
