"""Operators for sums of messages and their transposes; each is the derivative of another, so all derivatives exist."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from upscale_fx.operators.checks import REDUCTIONS, check_heads, check_structure, check_weight, describe
from upscale_fx.operators.kernels import choose
from upscale_fx.operators.library import register, same_dtype


def spmm(rowptr: Tensor, col: Tensor | None, weight: Tensor | None, x: Tensor, reduce: str) -> Tensor:
    """Reduce messages ``weight[e] * x[col[e]]`` over the edges of every target, without building them.

    Args:
        rowptr: the first edge of every target, int64 ``[N + 1]``.
        col: the source of every edge, int64 ``[E]``; without it, edge e reads row e of ``x``.
        weight: ``[E]``, or one per head ``[E, H]`` if ``x`` is ``[M, H, C]``.
        x: features of sources, ``[M, ...]`` with at least one more axis. Slices of the last axis are read in place.
        reduce: ``"sum"``, ``"mean"`` (divides by the number of edges, at least 1), ``"max"`` or ``"min"``.

    Returns:
        ``[N, ...]``; 0 for targets without edges, for every ``reduce``.

    Max and min have the gradient of ``torch.scatter_reduce``, which eager PyG runs: the edges that tie for a result
    share it evenly, and a result of exactly 0 counts one more tie, with the initial 0. They have no second derivative;
    sum and mean have all derivatives.

    Raises:
        IndexError: an entry of ``col`` is no row of ``x``, or ``rowptr`` does not fit E edges.
        ValueError: shapes or dtypes do not fit, or ``reduce`` is unknown.
    """
    if weight is not None:
        weight, x = same_dtype(weight, x)
    out: Tensor = _spmm(rowptr, col, weight, x, reduce)
    return out


def spmm_transposed(rowptr: Tensor, col: Tensor | None, weight: Tensor | None, g: Tensor, num_cols: int) -> Tensor:
    """Sum ``weight[e] * g[row of e]`` over the edges of every source: the gradient of a sum of messages.

    Args:
        rowptr: the first edge of every target, int64 ``[N + 1]``.
        col: the source of every edge, int64 ``[E]``; without it, edge e adds to row e.
        weight: ``[E]``, or one per head ``[E, H]`` if ``g`` is ``[N, H, C]``.
        g: one value per target, ``[N, ...]`` with at least one more axis.
        num_cols: the number of sources, M; E if ``col`` is None.

    Returns:
        ``[M, ...]``. All derivatives exist.

    Raises:
        IndexError: an entry of ``col`` is outside ``[0, num_cols)``, or ``rowptr`` does not fit E edges.
        ValueError: shapes or dtypes do not fit.
    """
    if weight is not None:
        weight, g = same_dtype(weight, g)
    out: Tensor = _spmm_transposed(rowptr, col, weight, g, num_cols)
    return out


def edge_dot(rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """``left[row of e] . right[col[e]]`` for every edge and head: the product q.k, without building ``[E, H, C]``.

    Args:
        rowptr: the first edge of every target, int64 ``[N + 1]``.
        col: the source of every edge, int64 ``[E]``; without it, edge e reads row e of ``right``.
        left: features of targets, ``[N, H, C]``.
        right: features of sources, ``[M, H, C]``.

    Returns:
        ``[E, H]``. All derivatives exist.

    Raises:
        IndexError: an entry of ``col`` is no row of ``right``, or ``rowptr`` does not fit E edges.
        ValueError: shapes or dtypes do not fit.
    """
    left, right = same_dtype(left, right)
    out: Tensor = _edge_dot(rowptr, col, left, right)
    return out


def _spmm_kernel(rowptr: Tensor, col: Tensor | None, weight: Tensor | None, x: Tensor, reduce: str) -> Tensor:
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be one of {', '.join(REDUCTIONS)}, got {reduce!r}")
    check_structure(rowptr, col)
    check_weight(weight, x, x.size(0) if col is None else col.numel())
    return choose(x).spmm(rowptr, col, weight, x, reduce)


def _spmm_fake(rowptr: Tensor, col: Tensor | None, weight: Tensor | None, x: Tensor, reduce: str) -> Tensor:
    return x.new_empty(rowptr.size(0) - 1, *x.shape[1:])


def _spmm_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rowptr, col, weight, x, ctx.reduce = inputs
    ctx.num_cols = x.size(0)
    extreme = ctx.reduce in ("max", "min")
    keep_x = extreme or ctx.needs_input_grad[2]
    ctx.save_for_backward(rowptr, col, weight, x if keep_x else None, output if extreme else None)


def _spmm_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rowptr, col, weight, x, out = ctx.saved_tensors
    if out is not None:
        grad_weight, grad_x = _extreme_backward(rowptr, col, weight, x, out, grad)
        return None, None, grad_weight if weight is not None else None, grad_x, None
    if ctx.reduce == "mean":
        count = rowptr.diff().clamp(min=1)
        grad = grad / count.view(-1, *(1,) * (grad.dim() - 1)).to(grad.dtype)
    needs_weight, needs_x = ctx.needs_input_grad[2:4]
    grad_weight = _weight_gradient(rowptr, col, weight, grad, x) if needs_weight else None
    grad_x = spmm_transposed(rowptr, col, weight, grad, ctx.num_cols) if needs_x else None
    return None, None, grad_weight, grad_x, None


def _weight_gradient(rowptr: Tensor, col: Tensor | None, weight: Tensor, target: Tensor, source: Tensor) -> Tensor:
    """Return the gradient of ``weight``; one of ``source`` and ``target`` is a gradient, the other a value."""
    if weight.dim() == 2:
        return edge_dot(rowptr, col, target, source)
    products = edge_dot(rowptr, col, target.flatten(1).unsqueeze(1), source.flatten(1).unsqueeze(1))
    return products.squeeze(1)


def _extreme_kernel(
    rowptr: Tensor, col: Tensor | None, weight: Tensor | None, x: Tensor, out: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    check_heads("out", out, (rowptr.numel() - 1, *x.shape[1:]))
    check_heads("grad", grad, tuple(out.shape))
    grad_x, grad_weight = choose(x).extreme_backward(rowptr, col, weight, x, out, grad)
    return x.new_empty(0) if grad_weight is None else grad_weight, grad_x


def _extreme_fake(
    rowptr: Tensor, col: Tensor | None, weight: Tensor | None, x: Tensor, out: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    return x.new_empty(0) if weight is None else weight.new_empty(weight.shape), x.new_empty(x.shape)


def _transposed_kernel(rowptr: Tensor, col: Tensor | None, weight: Tensor | None, g: Tensor, num_cols: int) -> Tensor:
    check_structure(rowptr, col)
    check_weight(weight, g, num_cols if col is None else col.numel())
    check_heads("g", g, (rowptr.numel() - 1, *g.shape[1:]))
    return choose(g).spmm_transposed(rowptr, col, weight, g, num_cols)


def _transposed_fake(rowptr: Tensor, col: Tensor | None, weight: Tensor | None, g: Tensor, num_cols: int) -> Tensor:
    return g.new_empty(num_cols, *g.shape[1:])


def _transposed_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rowptr, col, weight, g, _ = inputs
    ctx.save_for_backward(rowptr, col, weight, g if ctx.needs_input_grad[2] else None)


def _transposed_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rowptr, col, weight, g = ctx.saved_tensors
    grad_weight = _weight_gradient(rowptr, col, weight, g, grad) if ctx.needs_input_grad[2] else None
    grad_g = spmm(rowptr, col, weight, grad, "sum") if ctx.needs_input_grad[3] else None
    return None, None, grad_weight, grad_g, None


def _dot_kernel(rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    check_structure(rowptr, col)
    if right.dim() != 3:
        raise ValueError(f"right must be [M, H, C], got {describe(right)}")
    check_heads("left", left, (rowptr.numel() - 1, *right.shape[1:]))
    return choose(right).edge_dot(rowptr, col, left, right)


def _dot_fake(rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    return right.new_empty((right if col is None else col).size(0), right.size(1))


def _dot_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _dot_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rowptr, col, left, right = ctx.saved_tensors
    grad_left = spmm(rowptr, col, grad, right, "sum") if ctx.needs_input_grad[2] else None
    grad_right = spmm_transposed(rowptr, col, grad, left, right.size(0)) if ctx.needs_input_grad[3] else None
    return None, None, grad_left, grad_right


_spmm = register(
    "spmm(Tensor rowptr, Tensor? col, Tensor? weight, Tensor x, str reduce) -> Tensor",
    _spmm_kernel,
    _spmm_fake,
    save=_spmm_save,
    backward=_spmm_backward,
)
_extreme_backward = register(
    "extreme_backward(Tensor rowptr, Tensor? col, Tensor? weight, Tensor x, Tensor out, Tensor grad)"
    " -> (Tensor, Tensor)",
    _extreme_kernel,
    _extreme_fake,
)
_spmm_transposed = register(
    "spmm_transposed(Tensor rowptr, Tensor? col, Tensor? weight, Tensor g, SymInt num_cols) -> Tensor",
    _transposed_kernel,
    _transposed_fake,
    save=_transposed_save,
    backward=_transposed_backward,
)
_edge_dot = register(
    "edge_dot(Tensor rowptr, Tensor? col, Tensor left, Tensor right) -> Tensor",
    _dot_kernel,
    _dot_fake,
    save=_dot_save,
    backward=_dot_backward,
)
