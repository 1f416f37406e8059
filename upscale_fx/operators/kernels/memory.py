"""Memory for large results: in huge pages, and reused by the results of the next layer and the next call.

A result of hundreds of megabytes gets new memory in every call, and the first touch of each of its 4 KiB pages costs a
page fault. Measured on a virtual machine, filling 173 MB took 76 ms, of which 6 ms were writing; with huge pages
(2 MiB) it took 13 ms, with reused memory 6 ms. So blocks of :data:`_LARGE` bytes and more are kept after their tensor
is deleted. The blocks in use and the kept blocks together never exceed the peak of memory in use, and a block that
:data:`PATIENCE` requests could not use is freed. :func:`release` frees all kept blocks; ``UPSCALE_FX_KEEP_MEMORY=0``
keeps none. Huge pages are used on Linux only. Results do not depend on any of this.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

#: Smaller blocks come from torch's allocator, which mostly reuses memory.
_LARGE = 8 << 20
#: A kept block is freed after this many requests that it does not fit.
PATIENCE = 256
_HUGE_PAGE = 2 << 20
#: From so many rows and outputs on, products have steady bits: see :func:`is_steady`.
_STEADY_ROWS, _STEADY_OUTPUTS = 64, 12
_KEEPS = os.environ.get("UPSCALE_FX_KEEP_MEMORY", "1") != "0"


@dataclass
class _Store:
    """Blocks of memory that no tensor uses.

    Attributes:
        kept: (number of the request after its return, block).
        returned: blocks from finalizers, which run at any time and so must not wait for the lock.
        used: bytes in use.
        peak: the largest ``used`` so far.
        requests: the number of requests so far.
    """

    kept: list[tuple[int, mmap.mmap]] = field(default_factory=list)
    returned: deque[mmap.mmap] = field(default_factory=deque)
    used: int = 0
    peak: int = 0
    requests: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def lend(self, nbytes: int) -> mmap.mmap:
        """Return a block of at least ``nbytes`` bytes, and at most a quarter more."""
        size = -(-nbytes // _HUGE_PAGE) * _HUGE_PAGE
        with self.lock:
            self._tidy()
            fitting = [block for _, block in self.kept if size <= len(block) <= size + size // 4]
            chosen = min(fitting, key=len, default=None)
            if chosen is not None:
                self.kept = [entry for entry in self.kept if entry[1] is not chosen]
            else:
                chosen = _map(size)
            self.used += len(chosen)
            self.peak = max(self.peak, self.used)
            return chosen

    def count_kept(self) -> int:
        """Return the bytes of all kept blocks."""
        with self.lock:
            self._tidy()
            return sum(len(block) for _, block in self.kept)

    def _tidy(self) -> None:
        """Keep returned blocks, and free blocks that are too old or too many."""
        self.requests += 1
        while self.returned:
            block = self.returned.popleft()
            self.used -= len(block)
            self.kept.append((self.requests, block))
        self.kept = [entry for entry in self.kept if self.requests - entry[0] < PATIENCE]
        while self.kept and self.used + sum(len(block) for _, block in self.kept) > self.peak:
            self.kept.pop(0)

    def clear(self) -> None:
        """Free all kept blocks."""
        with self.lock:
            self._tidy()
            self.kept.clear()
            self.peak = self.used


_store = _Store()
if hasattr(os, "register_at_fork"):  # the lock may be held by a thread that a forked process does not have
    os.register_at_fork(after_in_child=lambda: setattr(_store, "lock", threading.Lock()))


def release() -> None:
    """Return memory that no tensor uses to the system."""
    _store.clear()


def kept_bytes() -> int:
    """Return the bytes that are kept although no tensor uses them."""
    return _store.count_kept()


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return an uninitialised contiguous tensor with the dtype and device of ``like``."""
    nbytes = torch.Size(shape).numel() * like.element_size()
    if nbytes < _LARGE or not _KEEPS or type(like) is not Tensor or like.device.type != "cpu":
        return like.new_empty(shape)
    store = _store
    block = store.lend(nbytes)
    view = (ctypes.c_ubyte * nbytes).from_buffer(block)
    weakref.finalize(view, store.returned.append, block).atexit = False  # when the last tensor in it is gone
    return torch.frombuffer(view, dtype=like.dtype).view(torch.Size(shape))


def _map(size: int) -> mmap.mmap:
    """Return a new block, in huge pages on Linux."""
    if not sys.platform.startswith("linux"):
        return mmap.mmap(-1, size)
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # the system has no huge pages
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear`` of ``[N, I]`` values; without gradients, the result is made by :func:`empty`.

    A row of the result does not depend on the other rows, bit for bit: see :func:`is_steady`.
    """
    if not is_steady(x, weight):
        return _steady(x, weight, bias)
    ordinary = type(x) is Tensor and x.dim() == 2 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if not ordinary or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    out = empty((x.size(0), weight.size(0)), x)
    return torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)


def is_steady(x: Tensor, weight: Tensor) -> bool:
    """Whether each row of ``x @ weight.T`` has the same bits whatever rows stand beside it, and however many.

    Measured for float32 on x86 (torch 2.13, MKL): it has from :data:`_STEADY_ROWS` rows and :data:`_STEADY_OUTPUTS`
    outputs on, for any number of inputs and any strides. Other dtypes and devices are not padded, nor are graphs that
    are compiled or exported, which must not depend on sizes.
    """
    if x.dtype is not torch.float32 or x.dim() != 2 or x.device.type != "cpu" or type(x) is not Tensor:
        return True
    if x.size(0) >= _STEADY_ROWS and weight.size(0) >= _STEADY_OUTPUTS:
        return True
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]


def _steady(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same product with rows and outputs of zeros beside it, which are cut off."""
    rows, outputs = x.size(0), weight.size(0)
    if outputs < _STEADY_OUTPUTS:
        weight = F.pad(weight, (0, 0, 0, _STEADY_OUTPUTS - outputs))
        bias = None if bias is None else F.pad(bias, (0, _STEADY_OUTPUTS - outputs))
    if rows < _STEADY_ROWS:
        x = F.pad(x, (0, 0, 0, _STEADY_ROWS - rows))
    out = F.linear(x, weight, bias)[:rows]
    return out[:, :outputs].contiguous() if outputs < _STEADY_OUTPUTS else out
