"""Memory for large results, in huge pages where the system gives them.

A result of hundreds of megabytes is new memory in every call, and the first touch of each of its 4 KiB pages costs a
page fault: on the machine this was measured on, filling 173 MB took 76 ms of which 6 ms were writing. Huge pages
(2 MiB) make that 13 ms. Only Linux is asked (``madvise``), and a system that declines gives ordinary pages: it is a
hint, numbers do not depend on it.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

#: Below this memory comes from the allocator's own store, most of it touched before.
_LARGE = 8 << 20
_PAGE = mmap.PAGESIZE


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """An uninitialised contiguous tensor, of the dtype and on the device of another."""
    result = like.new_empty(shape)
    nbytes = result.numel() * result.element_size()
    if nbytes >= _LARGE and result.device.type == "cpu" and (advise := _madvise()) is not None:
        start = -(-result.data_ptr() // _PAGE) * _PAGE
        stop = (result.data_ptr() + nbytes) // _PAGE * _PAGE
        advise(start, stop - start, mmap.MADV_HUGEPAGE)
    return result


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    """The system's ``madvise``; None where there is none."""
    if not sys.platform.startswith("linux") or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
    advise: Callable[[int, int, int], int] = function
    return advise


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear`` of ``[N, I]`` values; without gradients, into memory of :func:`empty`."""
    ordinary = type(x) is Tensor and x.dim() == 2 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if not ordinary or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.nn.functional.linear(x, weight, bias)
    out = empty((x.size(0), weight.size(0)), x)
    if bias is None:
        return torch.mm(x, weight.t(), out=out)
    return torch.addmm(bias, x, weight.t(), out=out)
