"""Operators for the logits of additive attention: one number per edge and head, from both ends of the edge."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from upscale_fx.operators.checks import check_heads, check_structure, describe
from upscale_fx.operators.kernels import choose
from upscale_fx.operators.library import register, same_dtype


def edge_add(rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor, negative_slope: float) -> Tensor:
    """``leaky_relu(left[row of e] + right[col[e]])`` for every edge: the logits of GAT (Velickovic et al., 2018).

    Args:
        rowptr: the first edge of every target, int64 ``[N + 1]``.
        col: the source of every edge, int64 ``[E]``; without it, edge e reads row e of ``right``.
        left: one value per target and head, ``[N, H]``.
        right: one value per source and head, ``[M, H]``.
        negative_slope: of the leaky ReLU; 1.0 returns the sum itself.

    Returns:
        ``[E, H]``. First derivatives exist; at a sum of exactly 0 the slope is ``negative_slope``, as in torch.

    Raises:
        IndexError: an entry of ``col`` is no row of ``right``, or ``rowptr`` does not fit E edges.
        ValueError: shapes or dtypes do not fit.
    """
    left, right = same_dtype(left, right)
    out: Tensor = _edge_add(rowptr, col, left, right, negative_slope)
    return out


def edge_additive_dot(
    rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor, vector: Tensor, negative_slope: float
) -> Tensor:
    """``vector . leaky_relu(left[row of e] + right[col[e]])`` for every edge and head, without building ``[E, H, C]``.

    The logits of GATv2 (Brody et al., 2022).

    Args:
        rowptr: the first edge of every target, int64 ``[N + 1]``.
        col: the source of every edge, int64 ``[E]``; without it, edge e reads row e of ``right``.
        left: features of targets, ``[N, H, C]``.
        right: features of sources, ``[M, H, C]``.
        vector: attention vector of every head, ``[H, C]``.
        negative_slope: of the leaky ReLU.

    Returns:
        ``[E, H]``. First derivatives exist; at a sum of exactly 0 the slope is ``negative_slope``, as in torch.

    Raises:
        IndexError: an entry of ``col`` is no row of ``right``, or ``rowptr`` does not fit E edges.
        ValueError: shapes or dtypes do not fit.
    """
    left, right, vector = same_dtype(left, right, vector)
    out: Tensor = _edge_additive_dot(rowptr, col, left, right, vector, negative_slope)
    return out


def _check(rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor, axes: int) -> None:
    check_structure(rowptr, col)
    if right.dim() != axes:
        raise ValueError(f"right must be {'[M, H]' if axes == 2 else '[M, H, C]'}, got {describe(right)}")
    check_heads("left", left, (rowptr.numel() - 1, *right.shape[1:]))


def _add_kernel(rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor, negative_slope: float) -> Tensor:
    _check(rowptr, col, left, right, 2)
    return choose(right).edge_add(rowptr, col, left, right, negative_slope)


def _add_fake(rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor, negative_slope: float) -> Tensor:
    return right.new_empty((right if col is None else col).size(0), right.size(1))


def _add_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *saved, ctx.negative_slope = inputs
    ctx.save_for_backward(*saved)


def _add_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_left, grad_right = _edge_add_backward(*ctx.saved_tensors, ctx.negative_slope, grad)
    return None, None, grad_left, grad_right, None


def _add_backward_kernel(
    rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor, negative_slope: float, grad: Tensor
) -> tuple[Tensor, Tensor]:
    check_heads("grad", grad, (right.size(0) if col is None else col.numel(), right.size(1)))
    return choose(right).edge_add_backward(rowptr, col, left, right, negative_slope, grad)


def _add_backward_fake(
    rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor, negative_slope: float, grad: Tensor
) -> tuple[Tensor, Tensor]:
    return left.new_empty(left.shape), right.new_empty(right.shape)


def _dot_kernel(
    rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor, vector: Tensor, negative_slope: float
) -> Tensor:
    _check(rowptr, col, left, right, 3)
    check_heads("vector", vector, tuple(right.shape[1:]))
    return choose(right).edge_additive_dot(rowptr, col, left, right, vector, negative_slope)


def _dot_fake(
    rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor, vector: Tensor, negative_slope: float
) -> Tensor:
    return right.new_empty((right if col is None else col).size(0), right.size(1))


def _dot_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    gradients = _edge_additive_dot_backward(*ctx.saved_tensors, ctx.negative_slope, grad)
    return None, None, *gradients, None


def _dot_backward_kernel(
    rowptr: Tensor,
    col: Tensor | None,
    left: Tensor,
    right: Tensor,
    vector: Tensor,
    negative_slope: float,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    check_heads("grad", grad, (right.size(0) if col is None else col.numel(), right.size(1)))
    return choose(right).edge_additive_dot_backward(rowptr, col, left, right, vector, negative_slope, grad)


def _dot_backward_fake(
    rowptr: Tensor,
    col: Tensor | None,
    left: Tensor,
    right: Tensor,
    vector: Tensor,
    negative_slope: float,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return left.new_empty(left.shape), right.new_empty(right.shape), vector.new_empty(vector.shape)


_GRAPH = "Tensor rowptr, Tensor? col"
_edge_add = register(
    f"edge_add({_GRAPH}, Tensor left, Tensor right, float negative_slope) -> Tensor",
    _add_kernel,
    _add_fake,
    save=_add_save,
    backward=_add_backward,
)
_edge_add_backward = register(
    f"edge_add_backward({_GRAPH}, Tensor left, Tensor right, float negative_slope, Tensor grad) -> (Tensor, Tensor)",
    _add_backward_kernel,
    _add_backward_fake,
)
_edge_additive_dot = register(
    f"edge_additive_dot({_GRAPH}, Tensor left, Tensor right, Tensor vector, float negative_slope) -> Tensor",
    _dot_kernel,
    _dot_fake,
    save=_add_save,
    backward=_dot_backward,
)
_edge_additive_dot_backward = register(
    f"edge_additive_dot_backward({_GRAPH}, Tensor left, Tensor right, Tensor vector, float negative_slope, Tensor grad)"
    " -> (Tensor, Tensor, Tensor)",
    _dot_backward_kernel,
    _dot_backward_fake,
)
