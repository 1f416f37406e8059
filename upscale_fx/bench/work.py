"""The work of a model: its dense products, and its sums over neighbours.

Both are counted in torch's dispatcher, where every model calls ``mm`` for dense products, and scatters or upscale_fx's
operators for sums. Activations, normalisation and the scores of edges do not count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import upscale_fx.operators  # noqa: F401 - registers torch.ops.upscale_fx

aten, fused = torch.ops.aten, torch.ops.upscale_fx

#: Dense products, with the position of their left operand; the right one follows it.
_DENSE = {
    aten.mm.default: 0, aten.mm.out: 0, aten.bmm.default: 0,
    aten.addmm.default: 1, aten.addmm.out: 1, aten.addmm_.default: 1, aten.baddbmm.default: 1,
}  # fmt: skip
#: Scatters, with the position of the scattered values.
_SCATTERS = {
    aten.scatter_add.default: 3, aten.scatter_add_.default: 3, aten.scatter_reduce.two: 3, aten.scatter_reduce_.two: 3,
    aten.index_add.default: 3, aten.index_add_.default: 3,
}  # fmt: skip


@dataclass(frozen=True)
class Dense:
    """``batch`` products of ``[rows, inner]`` with ``[inner, columns]``."""

    batch: int
    rows: int
    inner: int
    columns: int

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.batch * self.rows * self.inner * self.columns


@dataclass(frozen=True)
class Sparse:
    """A sum over neighbours.

    Attributes:
        edges: the number of rows that are summed.
        width: channels of a row.
        heads: the number of weights per row; 0 for none.
        gathered: whether the rows are gathered from nodes; else there is one row per edge.
    """

    edges: int
    width: int
    heads: int
    gathered: bool

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.edges * self.width


Product = Dense | Sparse
#: The number of times that one call computes each product.
Work = Counter[Product]


def work_of(call: Callable[[], object]) -> Work:
    """Run a model once and count its products."""
    recorder = _Recorder()
    with recorder:
        call()
    return recorder.work


def macs_of(work: Work) -> int:
    """Multiply-adds of all products."""
    return sum(times * product.macs for product, times in work.items())


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts products while it is entered; other operations run uncounted."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work: Work = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count a call and run it."""
        product = _product(func, args)
        if product is not None and product.macs:
            self.work[product] += 1
        return func(*args, **(kwargs or {}))


def _product(func: Any, args: Sequence[Any]) -> Product | None:
    if func in _DENSE:
        left, right = args[_DENSE[func] :][:2]
        if left.layout == torch.strided == right.layout:
            return Dense(math.prod(left.shape[:-2]), left.shape[-2], left.shape[-1], right.shape[-1])
        return _of_matrix(left, right)
    if func in _SCATTERS:
        source: Tensor = args[_SCATTERS[func]]
        return Sparse(source.size(0), source[0].numel(), 0, False) if source.dim() > 1 and source.size(0) else None
    if func is aten._sparse_mm_reduce_impl.default:
        return _of_matrix(*args[:2])
    if func in (fused.spmm.default, fused.attend.default):
        _, col, weight, x = args[:4]
        edges = x.size(0) if col is None else col.size(0)
        heads = 0 if weight is None else math.prod(weight.shape[1:])
        return Sparse(edges, math.prod(x.shape[1:]), heads, col is not None)
    return None


def _of_matrix(matrix: Tensor, x: Tensor) -> Product | None:
    """A product with a sparse matrix."""
    return Sparse(matrix.values().numel(), x.size(1), 1, True) if matrix.layout == torch.sparse_csr else None
