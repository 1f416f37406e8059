"""Operators of attention: softmax over the edges of every target, alone or with the weighted sum that follows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from upscale_fx.operators.checks import check_heads, check_structure, check_weight, describe
from upscale_fx.operators.kernels import choose
from upscale_fx.operators.library import register, same_dtype
from upscale_fx.operators.linear import edge_dot, spmm_transposed


def edge_softmax(rowptr: Tensor, scores: Tensor) -> Tensor:
    """Softmax over the edges of every target, like ``torch_geometric.utils.softmax``: ``exp(s - max) / (sum + 1e-16)``.

    Args:
        rowptr: the first edge of every target, int64 ``[N + 1]``.
        scores: one per edge ``[E]``, or per head ``[E, H]``.

    Returns:
        A tensor of the shape of ``scores``. First derivatives exist.

    Raises:
        IndexError: ``rowptr`` does not fit E edges.
        ValueError: shapes or dtypes do not fit.
    """
    out: Tensor = _edge_softmax(rowptr, scores)
    return out


def attend(rowptr: Tensor, col: Tensor | None, scores: Tensor, x: Tensor) -> Tensor:
    """``spmm`` with the softmax of ``scores`` as weights, in one pass over the edges, without building ``[E, H, C]``.

    Args:
        rowptr: the first edge of every target, int64 ``[N + 1]``.
        col: the source of every edge, int64 ``[E]``; without it, edge e reads row e of ``x``.
        scores: one per edge ``[E]``, or per head ``[E, H]`` if ``x`` is ``[M, H, C]``.
        x: features of sources, ``[M, ...]`` with at least one more axis.

    Returns:
        ``[N, ...]``; 0 for targets without edges. First derivatives exist; they compute the softmax again.

    Raises:
        IndexError: an entry of ``col`` is no row of ``x``, or ``rowptr`` does not fit E edges.
        ValueError: shapes or dtypes do not fit.
    """
    scores, x = same_dtype(scores, x)
    out: Tensor = _attend(rowptr, col, scores, x)
    return out


def _softmax_kernel(rowptr: Tensor, scores: Tensor) -> Tensor:
    check_structure(rowptr, None)
    if scores.dim() not in (1, 2):
        raise ValueError(f"scores must be [E] or [E, H], got {describe(scores)}")
    return choose(scores).edge_softmax(rowptr, scores)


def _softmax_fake(rowptr: Tensor, scores: Tensor) -> Tensor:
    return scores.new_empty(scores.shape)


def _softmax_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], output)


def _softmax_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return None, _edge_softmax_backward(*ctx.saved_tensors, grad)


def _softmax_backward_kernel(rowptr: Tensor, softmax: Tensor, grad: Tensor) -> Tensor:
    check_heads("grad", grad, tuple(softmax.shape))
    return choose(grad).edge_softmax_backward(rowptr, softmax, grad)


def _softmax_backward_fake(rowptr: Tensor, softmax: Tensor, grad: Tensor) -> Tensor:
    return softmax.new_empty(softmax.shape)


def _attend_kernel(rowptr: Tensor, col: Tensor | None, scores: Tensor, x: Tensor) -> Tensor:
    check_structure(rowptr, col)
    check_weight(scores, x, x.size(0) if col is None else col.numel())
    return choose(x).attend(rowptr, col, scores, x)


def _attend_fake(rowptr: Tensor, col: Tensor | None, scores: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(rowptr.size(0) - 1, *x.shape[1:])


def _attend_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _attend_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rowptr, col, scores, x = ctx.saved_tensors
    softmax = edge_softmax(rowptr, scores)
    grad_scores = grad_x = None
    if ctx.needs_input_grad[2]:
        target, source = (t if scores.dim() == 2 else t.flatten(1).unsqueeze(1) for t in (grad, x))
        moved = edge_dot(rowptr, col, target, source)
        grad_scores = _edge_softmax_backward(rowptr, softmax, moved.view(scores.shape))
    if ctx.needs_input_grad[3]:
        grad_x = spmm_transposed(rowptr, col, softmax, grad, x.size(0))
    return None, None, grad_scores, grad_x


_edge_softmax = register(
    "edge_softmax(Tensor rowptr, Tensor scores) -> Tensor",
    _softmax_kernel,
    _softmax_fake,
    save=_softmax_save,
    backward=_softmax_backward,
)
_edge_softmax_backward = register(
    "edge_softmax_backward(Tensor rowptr, Tensor softmax, Tensor grad) -> Tensor",
    _softmax_backward_kernel,
    _softmax_backward_fake,
)
_attend = register(
    "attend(Tensor rowptr, Tensor? col, Tensor scores, Tensor x) -> Tensor",
    _attend_kernel,
    _attend_fake,
    save=_attend_save,
    backward=_attend_backward,
)
