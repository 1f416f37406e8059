"""The operators on torch's own kernels, for any device and dtype.

Nothing of size ``[E, H, C]`` is built. Sums in half precision are accumulated in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from upscale_fx.operators.kernels.products import check, edge_rows, product, slices, widen


def csr(index: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """See :func:`upscale_fx.operators.csr`."""
    if index.numel():
        low, high = (int(bound) for bound in torch.aminmax(index))
        if low < 0 or high >= num_rows:
            wrong = low if low < 0 else high
            raise IndexError(f"index {wrong} is out of bounds: targets must be in [0, {num_rows})")
    targets, order = torch.sort(index, stable=True)
    rows = torch.arange(num_rows + 1, device=index.device)
    return torch.searchsorted(targets, rows), order


def spmm(rowptr: Tensor, col: Tensor | None, weight: Tensor | None, x: Tensor, reduce: str) -> Tensor:
    """See :func:`upscale_fx.operators.spmm`."""
    check(rowptr, col, x.size(0))
    return _spmm(rowptr, col, weight, x, reduce)


def _spmm(rowptr: Tensor, col: Tensor | None, weight: Tensor | None, x: Tensor, reduce: str) -> Tensor:
    if weight is None or weight.dim() == 1:
        return product(rowptr, col, weight, x.flatten(1), reduce).view(rowptr.numel() - 1, *x.shape[1:])
    heads = [product(rowptr, col, weight[:, h], x[:, h], reduce) for h in range(x.size(1))]
    return torch.stack(heads, dim=1) if heads else x.new_zeros(rowptr.numel() - 1, *x.shape[1:])


def extreme_backward(
    rowptr: Tensor, col: Tensor | None, weight: Tensor | None, x: Tensor, out: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Gradients of ``spmm`` with max or min: messages are computed again and compared with the result."""
    row = edge_rows(rowptr, check(rowptr, col, x.size(0)))
    grad_x = torch.zeros_like(x, dtype=widen(x.dtype), memory_format=torch.contiguous_format)
    grad_weight = None if weight is None else torch.zeros_like(weight, dtype=grad_x.dtype)
    heads: list[slice | int] = [slice(None)] if weight is None or weight.dim() == 1 else list(range(x.size(1)))
    for h in heads:
        source = x[:, h].flatten(1)
        message = source if col is None else source.index_select(0, col)
        scale = None if weight is None else (weight if weight.dim() == 1 else weight[:, h]).unsqueeze(1)
        if scale is not None:
            message = message * scale
        result = out[:, h].flatten(1)
        hits = (message == result.index_select(0, row)).to(grad_x.dtype)
        count = (result == 0).to(grad_x.dtype).index_add_(0, row, hits)
        hits *= (grad[:, h].flatten(1) / count).index_select(0, row)
        if grad_weight is not None and weight is not None:
            source = source if col is None else source.index_select(0, col)
            target = grad_weight if weight.dim() == 1 else grad_weight[:, h]
            target.copy_((hits * source).sum(dim=1))
        hits = hits if scale is None else hits * scale
        _add_rows(grad_x[:, h].flatten(1), col, hits)
    return grad_x.to(x.dtype), None if grad_weight is None else grad_weight.to(x.dtype)


def spmm_transposed(rowptr: Tensor, col: Tensor | None, weight: Tensor | None, g: Tensor, num_cols: int) -> Tensor:
    """See :func:`upscale_fx.operators.spmm_transposed`."""
    num_edges = check(rowptr, col, num_cols)
    if col is None:
        messages = g.index_select(0, edge_rows(rowptr, num_cols))
        if weight is None:
            return messages
        return messages * weight.view(weight.shape + (1,) * (g.dim() - weight.dim()))
    starts, order = csr(col, num_cols)  # the transposed graph
    row = edge_rows(rowptr, num_edges).index_select(0, order)
    return _spmm(starts, row, None if weight is None else weight.index_select(0, order), g, "sum")


def edge_dot(rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """See :func:`upscale_fx.operators.edge_dot`."""
    num_edges = check(rowptr, col, right.size(0))
    row, wide = edge_rows(rowptr, num_edges), widen(right.dtype)
    out = right.new_empty(num_edges, right.size(1))
    for part in slices(num_edges, right):
        source = right[part] if col is None else right.index_select(0, col[part])
        out[part] = (left.index_select(0, row[part]).to(wide) * source).sum(dim=-1)
    return out


def edge_add(rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor, negative_slope: float) -> Tensor:
    """See :func:`upscale_fx.operators.edge_add`."""
    return torch.nn.functional.leaky_relu(_pairs(rowptr, col, left, right), negative_slope)


def edge_add_backward(
    rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor, negative_slope: float, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of left and right."""
    wide = widen(right.dtype)
    grad = torch.where(_pairs(rowptr, col, left, right) > 0, grad, grad * negative_slope).to(wide)
    grad_left = product(rowptr, None, None, grad, "sum")
    grad_right = _add_rows(torch.zeros_like(right, dtype=wide), col, grad)
    return grad_left.to(left.dtype), grad_right.to(right.dtype)


def edge_additive_dot(
    rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor, vector: Tensor, negative_slope: float
) -> Tensor:
    """See :func:`upscale_fx.operators.edge_additive_dot`."""
    num_edges = check(rowptr, col, right.size(0))
    row, wide = edge_rows(rowptr, num_edges), widen(right.dtype)
    out = right.new_empty(num_edges, right.size(1))
    for part in slices(num_edges, right):
        source = right[part] if col is None else right.index_select(0, col[part])
        hidden = left.index_select(0, row[part]).to(wide) + source
        out[part] = (torch.nn.functional.leaky_relu(hidden, negative_slope) * vector).sum(dim=-1)
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
    num_edges = check(rowptr, col, right.size(0))
    row, wide = edge_rows(rowptr, num_edges), widen(right.dtype)
    totals = [torch.zeros(t.shape, dtype=wide, device=t.device) for t in (left, right, vector)]
    for part in slices(num_edges, right):
        columns = None if col is None else col[part]
        source = right[part] if columns is None else right.index_select(0, columns)
        hidden = left.index_select(0, row[part]).to(wide) + source
        outer = grad[part].unsqueeze(-1).to(wide)
        totals[2] += (outer * torch.nn.functional.leaky_relu(hidden, negative_slope)).sum(dim=0)
        inner = torch.where(hidden > 0, outer * vector, outer * vector * negative_slope)
        totals[0].index_add_(0, row[part], inner)
        _add_rows(totals[1][part] if columns is None else totals[1], columns, inner)
    grad_left, grad_right, grad_vector = (total.to(right.dtype) for total in totals)
    return grad_left, grad_right, grad_vector


def edge_softmax(rowptr: Tensor, scores: Tensor) -> Tensor:
    """See :func:`upscale_fx.operators.edge_softmax`."""
    check(rowptr, None, scores.size(0))
    return _softmax(rowptr, scores)


def _softmax(rowptr: Tensor, scores: Tensor) -> Tensor:
    row = edge_rows(rowptr, scores.size(0))
    wide = scores.to(widen(scores.dtype)).flatten(1) if scores.dim() > 1 else scores.to(widen(scores.dtype))[:, None]
    largest = product(rowptr, None, None, wide, "max")
    exponentials = (wide - largest.index_select(0, row)).exp()
    sums = product(rowptr, None, None, exponentials, "sum") + 1e-16
    return (exponentials / sums.index_select(0, row)).view(scores.shape).to(scores.dtype)


def edge_softmax_backward(rowptr: Tensor, softmax: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the scores."""
    row = edge_rows(rowptr, check(rowptr, None, softmax.size(0)))
    moved = softmax * grad
    sums = product(rowptr, None, None, moved.flatten(1) if moved.dim() > 1 else moved[:, None], "sum")
    return moved - softmax * sums.index_select(0, row).view(softmax.shape)


def attend(rowptr: Tensor, col: Tensor | None, scores: Tensor, x: Tensor) -> Tensor:
    """See :func:`upscale_fx.operators.attend`."""
    check(rowptr, col, x.size(0))
    return _spmm(rowptr, col, _softmax(rowptr, scores), x, "sum")


def _pairs(rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """Return ``left[row] + right[col]``, one per edge."""
    row = edge_rows(rowptr, check(rowptr, col, right.size(0)))
    return left.index_select(0, row) + (right if col is None else right.index_select(0, col))


def _add_rows(total: Tensor, col: Tensor | None, values: Tensor) -> Tensor:
    """Do ``total[col] += values`` in place; without ``col``, edge e adds to row e."""
    return total.add_(values) if col is None else total.index_add_(0, col, values)
