"""Products of a sorted graph with a matrix on torch's sparse kernels, and the checks they need."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

#: The largest size of a temporary ``[edges, channels]``.
_LARGEST_PART = 1 << 22
_SPARSE_REDUCE = {"sum": "sum", "mean": "mean", "max": "amax", "min": "amin"}
_SPARSE_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def product(rowptr: Tensor, col: Tensor | None, weight: Tensor | None, x: Tensor, reduce: str) -> Tensor:
    """Reduce ``weight[e] * x[col[e]]`` over the edges of every row: ``[M, C] -> [N, C]``, 0 for rows without edges.

    The caller must check the graph, because torch's sparse kernels do not check their indices.
    """
    num_rows, num_edges = rowptr.numel() - 1, x.size(0) if col is None else col.numel()
    if num_rows == 0 or num_edges == 0 or x.numel() == 0:
        return x.new_zeros(num_rows, x.size(1))
    if x.dtype in _SPARSE_DTYPES and x.device.type == "cpu":
        out: Tensor = torch.sparse.mm(_matrix(rowptr, col, weight, x), x, _SPARSE_REDUCE[reduce])
        return out
    if x.dtype in _SPARSE_DTYPES and x.device.type == "cuda" and reduce in ("sum", "mean"):
        total = _matrix(rowptr, col, weight, x) @ x
        return total / rowptr.diff().clamp_(min=1).unsqueeze(1) if reduce == "mean" else total
    return _scatter(rowptr, col, weight, x, reduce)


def edge_rows(rowptr: Tensor, num_edges: int) -> Tensor:
    """Return the row of every edge, ``[E]``."""
    rows = torch.arange(rowptr.numel() - 1, device=rowptr.device)
    return torch.repeat_interleave(rows, rowptr.diff(), output_size=num_edges)


def widen(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which sums of a dtype are accumulated."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def slices(num_edges: int, like: Tensor) -> Iterator[slice]:
    """Yield ranges of edges so short that a row of ``like`` for each edge fits into a small temporary."""
    step = max(1, _LARGEST_PART // max(1, like[:1].numel()))
    for start in range(0, num_edges, step):
        yield slice(start, min(start + step, num_edges))


def check(rowptr: Tensor, col: Tensor | None, num_columns: int) -> int:
    """Return the number of edges; raises an IndexError if an index is out of bounds, on CUDA asynchronously."""
    num_edges = num_columns if col is None else col.numel()
    _check_rows(rowptr, num_edges)
    if col is not None and num_edges:
        _check_columns(col, num_columns)
    return num_edges


def _check_columns(col: Tensor, num_columns: int) -> None:
    """Raise an IndexError unless every entry of ``col`` is in ``[0, num_columns)``."""
    if col.is_cuda:
        torch._assert_async(((col >= 0) & (col < num_columns)).all())  # does not wait for the device
        return
    low, high = (int(bound) for bound in torch.aminmax(col))
    if low < 0 or high >= num_columns:
        raise IndexError(f"col names row {low if low < 0 else high}, but there are only {num_columns} rows to read")


def _check_rows(rowptr: Tensor, num_edges: int) -> None:
    """Raise an IndexError unless ``rowptr`` ascends from 0 to the number of edges."""
    ascends = (rowptr.diff() >= 0).all() & (rowptr[0] == 0) & (rowptr[-1] == num_edges)
    if rowptr.is_cuda:
        torch._assert_async(ascends)
    elif not ascends:
        raise IndexError(f"rowptr must ascend from 0 to the number of edges, {num_edges}: is it from another graph?")


def _matrix(rowptr: Tensor, col: Tensor | None, weight: Tensor | None, x: Tensor) -> Tensor:
    """Return the graph as a sparse matrix ``[N, M]``."""
    _silence_beta_warning()
    num_rows, num_columns = rowptr.numel() - 1, x.size(0)
    columns = torch.arange(num_columns, device=x.device) if col is None else col
    values = x.new_ones(columns.numel()) if weight is None else weight
    return torch.sparse_csr_tensor(rowptr, columns, values, size=(num_rows, num_columns), check_invariants=False)


@functools.cache
def _silence_beta_warning() -> None:
    """Trigger torch's warning that CSR tensors are in beta, which comes once per process, where it is suppressed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = torch.zeros(2, dtype=torch.int64)
        torch.sparse_csr_tensor(start, start[:0], torch.zeros(0), size=(1, 1), check_invariants=False)


def _scatter(rowptr: Tensor, col: Tensor | None, weight: Tensor | None, x: Tensor, reduce: str) -> Tensor:
    """Compute the product without sparse tensors: gather, then scatter."""
    wide = widen(x.dtype)
    messages = x if col is None else x.index_select(0, col)
    messages = messages if weight is None else messages * weight.unsqueeze(1)
    row = edge_rows(rowptr, messages.size(0))
    out = torch.zeros(rowptr.numel() - 1, x.size(1), dtype=wide, device=x.device)
    if reduce == "sum":
        return out.index_add_(0, row, messages.to(wide)).to(x.dtype)
    index = row.unsqueeze(1).expand_as(messages)
    return out.scatter_reduce_(0, index, messages.to(wide), _SPARSE_REDUCE[reduce], include_self=False).to(x.dtype)
