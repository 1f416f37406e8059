"""Which kernels run: compiled ones where numba works and fits the tensors, torch's own ones otherwise."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, cast

import torch
from torch import Tensor

from upscale_fx.errors import CompilationError
from upscale_fx.operators.kernels import torch_kernels
from upscale_fx.operators.kernels.fallback import Fallback, is_numbas

#: The environment variable that forces a choice: ``torch`` or ``numba``; empty or unset chooses by itself.
VARIABLE = "UPSCALE_FX_KERNELS"

_COMPILED_DTYPES = (torch.float32, torch.float64)
_asked: list[str] = [os.environ.get(VARIABLE, "")]  # the innermost `using` is last
_fallback = Fallback()


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
    return _chosen() if _fits(x) else cast(Kernels, torch_kernels)


def choose_structure(index: Tensor) -> Kernels:
    """The kernels for a tensor of indices."""
    return _chosen() if index.is_cpu else cast(Kernels, torch_kernels)


def fall_back(error: CompilationError) -> None:
    """Run torch's kernels from now on, since numba could not compile one of its own; warns as a missing numba does.

    Raises:
        CompilationError: numba's kernels were asked for by name.
    """
    if _asked[-1]:
        raise error
    _fallback.not_compiled(error)
    _wanted.cache_clear()


def choose_again() -> None:
    """Forget what was found out about numba and that it was said: it was installed while this process ran."""
    importlib.invalidate_caches()
    vars(_fallback).update(vars(Fallback(silenced=_fallback.silenced)))
    _wanted.cache_clear()


def name(like: Tensor | None = None) -> str:
    """``"numba"`` or ``"torch"``: what runs on tensors like this one or, without one, on CPU tensors of float32.

    Warns of nothing: it is what reports print.
    """
    fits = like is None or _fits(like)
    return "numba" if fits and _wanted(_asked[-1]) is not None else "torch"


@contextmanager
def using(kernels: str) -> Iterator[None]:
    """Force ``"torch"`` or ``"numba"`` kernels inside a ``with`` block, whatever the environment variable says.

    ``""`` chooses as if nothing were asked for.

    For tests and measurements; the choice holds for the whole process, not for one thread.

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


@contextmanager
def untold() -> Iterator[None]:
    """Keep the warning of a numba that does not work for later: inside the block nobody would see it."""
    _fallback.silenced += 1
    try:
        yield
    finally:
        _fallback.silenced -= 1


def _fits(x: Tensor) -> bool:
    return x.is_cpu and x.dtype in _COMPILED_DTYPES


def _chosen() -> Kernels:
    compiled = _wanted(_asked[-1])
    if compiled is not None:
        return compiled
    if not _asked[-1]:  # who asks for torch's kernels need not be told
        _fallback.tell()
    return cast(Kernels, torch_kernels)


@functools.cache
def _wanted(asked: str) -> Kernels | None:
    """The compiled kernels, or None where torch's are to run."""
    if asked not in ("", "torch", "numba"):
        raise ValueError(f"no kernels are called {asked!r}: set {VARIABLE} to 'torch' or 'numba', or leave it out")
    if asked == "torch" or (not asked and _fallback.uncompiled):
        return None
    try:
        return cast(Kernels, importlib.import_module("upscale_fx.operators.kernels.compiled"))
    except Exception as error:
        if asked or not is_numbas(error):  # a mistake of ours must not mean slow
            raise
        _fallback.not_imported(error)
        return None
