"""The operators on compiled loops, for float32 and float64 on a CPU. Importing this file imports numba."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from upscale_fx.operators.kernels import edge_loops, extreme_loops, source_loops, sum_loops
from upscale_fx.operators.kernels.arrays import StridedRows, flat, strided_rows
from upscale_fx.operators.kernels.jit import OK, ROWPTR
from upscale_fx.operators.kernels.memory import empty
from upscale_fx.operators.kernels.threads import over_channels, over_rows

_ONES = {torch.float32: np.ones(1, np.float32), torch.float64: np.ones(1, np.float64)}
_NO_COLUMNS = np.empty(0, np.int64)
_EXPONENTIAL = 32  # the cost of one exponential, in numbers moved


def csr(index: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """See :func:`upscale_fx.operators.csr`."""
    rowptr, order = index.new_zeros(num_rows + 1), torch.empty_like(index, memory_format=torch.contiguous_format)
    outcome = source_loops.csr(flat(index), num_rows, rowptr.numpy(), order.numpy())
    if outcome != OK:
        raise IndexError(f"index {int(index[outcome])} is out of bounds: targets must be in [0, {num_rows})")
    return rowptr, order


def spmm(rowptr: Tensor, col: Tensor | None, weight: Tensor | None, x: Tensor, reduce: str) -> Tensor:
    """See :func:`upscale_fx.operators.spmm`."""
    out = empty((rowptr.numel() - 1, *x.shape[1:]), x)
    if out.numel():
        source = strided_rows(x, per_head=weight is not None and weight.dim() == 2)
        extreme = reduce in ("max", "min")
        loop = sum_loops.spmm_extreme if extreme else sum_loops.spmm_sum
        graph, features = _graph(col, x), _features(source, x)
        option = reduce in ("mean", "min")
        _over_rows(loop, rowptr, col, x, *graph, *_weights(weight, x), *features, option, flat(out))
    return out


def extreme_backward(
    rowptr: Tensor, col: Tensor | None, weight: Tensor | None, x: Tensor, out: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Gradients of ``spmm`` with max or min."""
    grad_x = torch.zeros_like(x, memory_format=torch.contiguous_format)
    grad_weight = None if weight is None else torch.zeros_like(weight, memory_format=torch.contiguous_format)
    if out.numel() == 0 or x.numel() == 0:
        return grad_x, grad_weight
    source = strided_rows(x, per_head=weight is not None and weight.dim() == 2)
    arguments = (*_graph(col, x), *_weights(weight, x), *_features(source, x), flat(out), flat(grad))
    _over_channels(extreme_loops.extreme_sources, rowptr, col, x, source, *arguments, flat(grad_x))
    if grad_weight is not None:
        _over_rows(extreme_loops.extreme_weights, rowptr, col, x, *arguments, flat(grad_weight))
    return grad_x, grad_weight


def spmm_transposed(rowptr: Tensor, col: Tensor | None, weight: Tensor | None, g: Tensor, num_cols: int) -> Tensor:
    """See :func:`upscale_fx.operators.spmm_transposed`."""
    out = empty((num_cols, *g.shape[1:]), g).zero_()
    if out.numel() and g.numel():
        source = strided_rows(g, per_head=weight is not None and weight.dim() == 2)
        arguments = (*_graph(col, out), *_weights(weight, g), *_features(source, out))
        _over_channels(source_loops.spmm_transposed, rowptr, col, out, source, *arguments, flat(out))
    return out


def edge_dot(rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """See :func:`upscale_fx.operators.edge_dot`."""
    out = empty((_num_edges(col, right), right.size(1)), right)
    if right.size(2) == 0:
        return out.zero_()
    if out.numel():
        target, source = strided_rows(left, per_head=True), strided_rows(right, per_head=True)
        ends = (target.flat, target.row, target.head, *_features(source, right))
        _over_rows(edge_loops.edge_dot, rowptr, col, right, *_graph(col, right), *ends, flat(out))
    return out


def edge_add(rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor, negative_slope: float) -> Tensor:
    """See :func:`upscale_fx.operators.edge_add`."""
    out = empty((_num_edges(col, right), right.size(1)), right)
    if out.numel():
        ends = (flat(left), flat(right), right.size(0), right.size(1), float(negative_slope))
        _over_rows(edge_loops.edge_add, rowptr, col, right, *_graph(col, right), *ends, flat(out))
    return out


def edge_add_backward(
    rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor, negative_slope: float, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of left and right."""
    grad_left, grad_right = (torch.zeros_like(end, memory_format=torch.contiguous_format) for end in (left, right))
    if grad.numel():
        ends = (flat(left), flat(right), right.size(0), right.size(1), float(negative_slope), flat(grad))
        arguments = (*_graph(col, right), *ends, flat(grad_left), flat(grad_right))
        _raise(source_loops.edge_add_backward(flat(rowptr), *arguments), col, right.size(0))
    return grad_left, grad_right


def edge_additive_dot(
    rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor, vector: Tensor, negative_slope: float
) -> Tensor:
    """See :func:`upscale_fx.operators.edge_additive_dot`."""
    out = empty((_num_edges(col, right), right.size(1)), right)
    if right.size(2) == 0:
        return out.zero_()
    if out.numel():
        target, source = strided_rows(left, per_head=True), strided_rows(right, per_head=True)
        ends = (target.flat, target.row, target.head, *_features(source, right), flat(vector), float(negative_slope))
        _over_rows(edge_loops.edge_additive_dot, rowptr, col, right, *_graph(col, right), *ends, flat(out))
    return out


def edge_additive_dot_backward(
    rowptr: Tensor,
    col: Tensor | None,
    left: Tensor,
    right: Tensor,
    vector: Tensor,
    negative_slope: float,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of left, right and vector."""
    grad_left, grad_right, grad_vector = (
        torch.zeros_like(t, memory_format=torch.contiguous_format) for t in (left, right, vector)
    )
    if grad.numel() and vector.numel():
        target, source = strided_rows(left, per_head=True), strided_rows(right, per_head=True)
        ends = (target.flat, target.row, target.head, *_features(source, right), flat(vector), float(negative_slope))
        arguments = (*_graph(col, right), *ends, flat(grad), flat(grad_left), flat(grad_right), flat(grad_vector))
        loop = source_loops.edge_additive_dot_backward
        _over_channels(loop, rowptr, col, right, source, *arguments)
    return grad_left, grad_right, grad_vector


def edge_softmax(rowptr: Tensor, scores: Tensor) -> Tensor:
    """See :func:`upscale_fx.operators.edge_softmax`."""
    out = empty(scores.shape, scores)
    if out.numel():
        num_edges, heads = scores.size(0), scores.numel() // scores.size(0)
        arguments = (num_edges, flat(scores), heads, flat(out))
        _raise(over_rows(edge_loops.edge_softmax, flat(rowptr), _EXPONENTIAL * heads, *arguments), None, num_edges)
    return out


def edge_softmax_backward(rowptr: Tensor, softmax: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the scores."""
    out = empty(softmax.shape, softmax)
    if out.numel():
        num_edges, heads = softmax.size(0), softmax.numel() // softmax.size(0)
        arguments = (num_edges, flat(softmax), flat(grad), heads, flat(out))
        _raise(over_rows(edge_loops.edge_softmax_backward, flat(rowptr), heads, *arguments), None, num_edges)
    return out


def attend(rowptr: Tensor, col: Tensor | None, scores: Tensor, x: Tensor) -> Tensor:
    """See :func:`upscale_fx.operators.attend`."""
    out = empty((rowptr.numel() - 1, *x.shape[1:]), x)
    if out.numel():
        source = strided_rows(x, per_head=scores.dim() == 2)
        width = source.heads * (source.channels + _EXPONENTIAL)
        arguments = (*_graph(col, x), *_weights(scores, x), *_features(source, x), flat(out))
        _raise(over_rows(sum_loops.attend, flat(rowptr), width, *arguments), col, x.size(0))
    return out


def _num_edges(col: Tensor | None, x: Tensor) -> int:
    return x.size(0) if col is None else col.numel()


def _graph(col: Tensor | None, x: Tensor) -> tuple[Any, bool, int]:
    """``col, identity, num_edges``."""
    return (_NO_COLUMNS, True, x.size(0)) if col is None else (flat(col), False, col.numel())


def _weights(weight: Tensor | None, x: Tensor) -> tuple[Any, int, int]:
    """``w, ws, wh``: without weights, every edge reads the same 1."""
    if weight is None:
        return _ONES[x.dtype], 0, 0
    return (flat(weight), 1, 0) if weight.dim() == 1 else (flat(weight), weight.size(1), 1)


def _features(source: StridedRows, x: Tensor) -> tuple[Any, int, int, int, int, int]:
    """``x, xs, hs, m, heads, channels``."""
    return source.flat, source.row, source.head, x.size(0), source.heads, source.channels


def _over_rows(loop: Any, rowptr: Tensor, col: Tensor | None, x: Tensor, *arguments: Any) -> None:
    width = x.numel() // max(1, x.size(0))
    _raise(over_rows(loop, flat(rowptr), width, *arguments), col, x.size(0))


def _over_channels(
    loop: Any, rowptr: Tensor, col: Tensor | None, x: Tensor, source: StridedRows, *arguments: Any
) -> None:
    width = source.heads * source.channels
    _raise(over_channels(loop, flat(rowptr), width, *arguments), col, x.size(0))


def _raise(outcome: int, col: Tensor | None, num_columns: int) -> None:
    """Raise the error that a loop returned, if any."""
    if outcome == OK:
        return
    if outcome == ROWPTR or col is None:
        raise IndexError("rowptr must ascend from 0 to the number of edges: is it from another graph?")
    raise IndexError(f"col names row {int(col[outcome])}, but there are only {num_columns} rows to read")
