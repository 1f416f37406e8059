"""Memory for large results: in huge pages, and used again by the results of the next layer and the next call.

A result of hundreds of megabytes is new memory in every call, and the first touch of each of its 4 KiB pages costs a
page fault: on the machine this was measured on (a virtual one), filling 173 MB took 76 ms of which 6 ms were writing.
Huge pages (2 MiB) made that 13 ms, memory that had been used before 6 ms. So blocks of :data:`_LARGE` bytes and more
are kept when the tensor in them is gone. Never more is kept than was in use at one time, nor a block that
:data:`PATIENCE` requests could not use; :func:`release` gives all of it back, and ``UPSCALE_FX_KEEP_MEMORY=0`` keeps
none. Only Linux is asked for huge pages; numbers do not depend on any of this.
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

#: Below this memory comes from the allocator's own store, most of it touched before.
_LARGE = 8 << 20
#: Requests that a kept block waits for one that it fits.
PATIENCE = 256
_HUGE_PAGE = 2 << 20
_KEEPS = os.environ.get("UPSCALE_FX_KEEP_MEMORY", "1") != "0"


@dataclass
class _Store:
    """Blocks of memory that no tensor uses.

    Attributes:
        kept: each with the number of the request before which it was returned.
        returned: what finalizers put here; they run at any time, so they must not wait for the lock.
        used: bytes lent out; ``peak`` is the most that was at one time.
        requests: how many there were.
    """

    kept: list[tuple[int, mmap.mmap]] = field(default_factory=list)
    returned: deque[mmap.mmap] = field(default_factory=deque)
    used: int = 0
    peak: int = 0
    requests: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def lend(self, nbytes: int) -> mmap.mmap:
        """A block of at least that many bytes, and of at most a quarter more."""
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
        """Bytes of all blocks."""
        with self.lock:
            self._tidy()
            return sum(len(block) for _, block in self.kept)

    def _tidy(self) -> None:
        """Take in what was returned, and let go of what is too old or too much."""
        self.requests += 1
        while self.returned:
            block = self.returned.popleft()
            self.used -= len(block)
            self.kept.append((self.requests, block))
        self.kept = [entry for entry in self.kept if self.requests - entry[0] < PATIENCE]
        while self.kept and self.used + sum(len(block) for _, block in self.kept) > self.peak:
            self.kept.pop(0)

    def clear(self) -> None:
        """Let go of all."""
        with self.lock:
            self._tidy()
            self.kept.clear()
            self.peak = self.used


_store = _Store()
if hasattr(os, "register_at_fork"):  # in a forked process the lock may be held by a thread that it does not have
    os.register_at_fork(after_in_child=lambda: setattr(_store, "lock", threading.Lock()))


def release() -> None:
    """Give memory that no tensor uses back to the system."""
    _store.clear()


def kept_bytes() -> int:
    """Bytes that are kept although no tensor uses them."""
    return _store.count_kept()


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """An uninitialised contiguous tensor, of the dtype and on the device of another."""
    nbytes = torch.Size(shape).numel() * like.element_size()
    if nbytes < _LARGE or not _KEEPS or type(like) is not Tensor or like.device.type != "cpu":
        return like.new_empty(shape)
    store = _store
    block = store.lend(nbytes)
    view = (ctypes.c_ubyte * nbytes).from_buffer(block)
    weakref.finalize(view, store.returned.append, block).atexit = False  # when the last tensor in it is gone
    return torch.frombuffer(view, dtype=like.dtype).view(torch.Size(shape))


def _map(size: int) -> mmap.mmap:
    """New memory."""
    if not sys.platform.startswith("linux"):
        return mmap.mmap(-1, size)
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a system without them
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear`` of ``[N, I]`` values; without gradients, into memory of :func:`empty`."""
    ordinary = type(x) is Tensor and x.dim() == 2 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if not ordinary or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    out = empty((x.size(0), weight.size(0)), x)
    return torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)
