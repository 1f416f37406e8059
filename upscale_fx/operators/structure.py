"""The operator that sorts a graph by target."""

from __future__ import annotations

import torch
from torch import Tensor

from upscale_fx.operators.checks import describe
from upscale_fx.operators.kernels import choose_structure
from upscale_fx.operators.library import register


def csr(index: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Sort edges by target; edges of one target keep their order.

    Args:
        index: the target of every edge, int64 ``[E]``.
        num_rows: the number of targets, N.

    Returns:
        ``rowptr [N + 1]`` and ``order [E]``: the edges of target i are ``order[rowptr[i]:rowptr[i + 1]]``. The ``col``
        of the other operators is ``source[order]``.

    Raises:
        IndexError: an entry of ``index`` is outside ``[0, num_rows)``.
        ValueError: ``index`` is not int64 with one axis.
    """
    rowptr, order = _csr(index, num_rows)
    return rowptr, order


def _kernel(index: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    if index.dtype != torch.int64 or index.dim() != 1:
        raise ValueError(f"index must be int64 [E], got {describe(index)}")
    return choose_structure(index).csr(index, num_rows)


def _fake(index: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    return index.new_empty(num_rows + 1), index.new_empty(index.size(0))


_csr = register(
    "csr(Tensor index, SymInt num_rows) -> (Tensor, Tensor)",
    _kernel,
    _fake,
    save=lambda ctx, inputs, output: None,
    backward=lambda ctx, *grads: (None, None),
)
