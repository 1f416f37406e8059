"""Which kernels run: compiled ones where numba is installed and fits the tensors, torch's own ones otherwise."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, cast

import torch
from torch import Tensor

from upscale_fx.operators.kernels import torch_kernels

#: The environment variable that forces a choice: ``torch`` or ``numba``; empty or unset chooses by itself.
VARIABLE = "UPSCALE_FX_KERNELS"

_COMPILED_DTYPES = (torch.float32, torch.float64)
_asked: list[str] = [os.environ.get(VARIABLE, "")]  # the innermost `using` is last


class Kernels(Protocol):
    """What an implementation provides; shapes are those of the operators of the same names.

    Functions that end in ``_backward`` return the gradients of the operator's floating arguments in order.
    """

    def csr(self, index: Tensor, num_rows: int) -> tuple[Tensor, Tensor]: ...  # noqa: D102

    def spmm(self, rowptr: Tensor, col: Tensor | None, weight: Tensor | None, x: Tensor, reduce: str) -> Tensor: ...  # noqa: D102

    def extreme_backward(  # noqa: D102 - of spmm with max and min
        self, rowptr: Tensor, col: Tensor | None, weight: Tensor | None, x: Tensor, out: Tensor, grad: Tensor
    ) -> tuple[Tensor, Tensor | None]: ...

    def spmm_transposed(  # noqa: D102
        self, rowptr: Tensor, col: Tensor | None, weight: Tensor | None, g: Tensor, num_cols: int
    ) -> Tensor: ...

    def edge_dot(self, rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor) -> Tensor: ...  # noqa: D102

    def edge_add(  # noqa: D102
        self, rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor, negative_slope: float
    ) -> Tensor: ...

    def edge_add_backward(  # noqa: D102
        self, rowptr: Tensor, col: Tensor | None, left: Tensor, right: Tensor, negative_slope: float, grad: Tensor
    ) -> tuple[Tensor, Tensor]: ...

    def edge_additive_dot(  # noqa: D102
        self,
        rowptr: Tensor,
        col: Tensor | None,
        left: Tensor,
        right: Tensor,
        vector: Tensor,
        negative_slope: float,
    ) -> Tensor: ...

    def edge_additive_dot_backward(  # noqa: D102
        self,
        rowptr: Tensor,
        col: Tensor | None,
        left: Tensor,
        right: Tensor,
        vector: Tensor,
        negative_slope: float,
        grad: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    def edge_softmax(self, rowptr: Tensor, scores: Tensor) -> Tensor: ...  # noqa: D102

    def edge_softmax_backward(self, rowptr: Tensor, softmax: Tensor, grad: Tensor) -> Tensor: ...  # noqa: D102

    def attend(self, rowptr: Tensor, col: Tensor | None, scores: Tensor, x: Tensor) -> Tensor: ...  # noqa: D102


def choose(x: Tensor) -> Kernels:
    """The kernels for a tensor like ``x``."""
    if x.is_cpu and x.dtype in _COMPILED_DTYPES:
        compiled = _wanted(_asked[-1])
        if compiled is not None:
            return compiled
    return cast(Kernels, torch_kernels)


def choose_structure(index: Tensor) -> Kernels:
    """The kernels for a tensor of indices."""
    compiled = _wanted(_asked[-1]) if index.is_cpu else None
    return cast(Kernels, torch_kernels) if compiled is None else compiled


def choose_again() -> None:
    """Forget what was found out about numba: it was installed, or removed, while this process ran."""
    importlib.invalidate_caches()
    _wanted.cache_clear()


def name() -> str:
    """``"numba"`` or ``"torch"``: what runs on CPU tensors of float32 and float64; all others always take torch's."""
    return "torch" if _wanted(_asked[-1]) is None else "numba"


@contextmanager
def using(kernels: str) -> Iterator[None]:
    """Force ``"torch"`` or ``"numba"`` kernels inside a ``with`` block, whatever the environment variable says.

    ``""`` chooses as if nothing were asked for. For tests and measurements; the choice holds for the whole process,
    not for one thread.

    Raises:
        ValueError: no kernels have that name.
        ImportError: numba is asked for and cannot be imported.
    """
    _wanted(kernels)
    _asked.append(kernels)
    try:
        yield
    finally:
        _asked.pop()


@functools.cache
def _wanted(asked: str) -> Kernels | None:
    """The compiled kernels, or None where torch's are to run."""
    if asked not in ("", "torch", "numba"):
        raise ValueError(f"no kernels are called {asked!r}: set {VARIABLE} to 'torch' or 'numba', or leave it out")
    if asked == "torch":
        return None
    try:
        return cast(Kernels, importlib.import_module("upscale_fx.operators.kernels.compiled"))
    except ImportError as error:
        ours = (error.name or "").partition(".")[0] not in ("numba", "llvmlite")  # a mistake here must not mean slow
        if ours or asked == "numba":
            raise
        return None
