"""The choice of kernels: compiled ones if numba works and the tensors fit, torch's own kernels otherwise."""

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
from upscale_fx.operators.kernels.fallback import Fallback, comes_from_numba

#: The environment variable that forces a choice: ``torch`` or ``numba``; empty or unset chooses automatically.
VARIABLE = "UPSCALE_FX_KERNELS"

_COMPILED_DTYPES = (torch.float32, torch.float64)
_requests: list[str] = [os.environ.get(VARIABLE, "")]  # the innermost `using` is last
_fallback = Fallback()


class Kernels(Protocol):
    """The functions of an implementation; shapes are those of the operators with the same names.

    Functions that end in ``_backward`` return the gradients of the operator's floating-point arguments, in order.
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
    """Return the kernels for tensors with the device and dtype of ``x``."""
    return _chosen() if _fits(x) else cast(Kernels, torch_kernels)


def choose_structure(index: Tensor) -> Kernels:
    """Return the kernels for a tensor of indices."""
    return _chosen() if index.is_cpu else cast(Kernels, torch_kernels)


def fall_back(error: CompilationError) -> None:
    """Run torch's kernels from now on, because numba could not compile a kernel; warns once, like a missing numba.

    Raises:
        CompilationError: numba's kernels were chosen by name.
    """
    if _requests[-1]:
        raise error
    _fallback.not_compiled(error)
    _compiled_kernels.cache_clear()


def choose_again() -> None:
    """Try numba again, and warn again if it fails: it may have been installed while this process ran."""
    importlib.invalidate_caches()
    vars(_fallback).update(vars(Fallback(silenced=_fallback.silenced)))
    _compiled_kernels.cache_clear()


def name(like: Tensor | None = None) -> str:
    """Return ``"numba"`` or ``"torch"``: the kernels for tensors like this one, by default float32 tensors on a CPU.

    This never warns; reports print it.
    """
    fits = like is None or _fits(like)
    return "numba" if fits and _compiled_kernels(_requests[-1]) is not None else "torch"


@contextmanager
def using(kernels: str) -> Iterator[None]:
    """Force ``"torch"`` or ``"numba"`` kernels inside a ``with`` block; this overrides the environment variable.

    ``""`` chooses automatically.

    For tests and measurements; the choice holds for the whole process, not for one thread.

    Raises:
        ValueError: no kernels have this name.
        ImportError: ``kernels`` is ``"numba"``, which cannot be imported.
    """
    _compiled_kernels(kernels)
    _requests.append(kernels)
    try:
        yield
    finally:
        _requests.pop()


@contextmanager
def without_warning() -> Iterator[None]:
    """Delay the warning that numba does not work until after the block, inside which no user would see it."""
    _fallback.silenced += 1
    try:
        yield
    finally:
        _fallback.silenced -= 1


def _fits(x: Tensor) -> bool:
    return x.is_cpu and x.dtype in _COMPILED_DTYPES


def _chosen() -> Kernels:
    compiled = _compiled_kernels(_requests[-1])
    if compiled is not None:
        return compiled
    if not _requests[-1]:  # a user who chose torch's kernels needs no warning
        _fallback.warn_once()
    return cast(Kernels, torch_kernels)


@functools.cache
def _compiled_kernels(request: str) -> Kernels | None:
    """Return the compiled kernels, or None if torch's kernels are to run."""
    if request not in ("", "torch", "numba"):
        raise ValueError(f"no kernels are called {request!r}: set {VARIABLE} to 'torch' or 'numba', or leave it out")
    if request == "torch" or (not request and _fallback.uncompiled):
        return None
    try:
        return cast(Kernels, importlib.import_module("upscale_fx.operators.kernels.compiled"))
    except Exception as error:
        if request or not comes_from_numba(error):  # an error of upscale_fx must show, not make it slow
            raise
        _fallback.not_imported(error)
        return None
