"""Run compiled loops on ``torch.get_num_threads()`` threads, the calling thread included."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from upscale_fx.operators.kernels.jit import OK

#: Below this work, one thread is faster. Measured: waking a thread takes 50 us, the time of a sixth of this work.
SMALL = 1 << 22
#: The fixed cost of an edge, in numbers moved.
_PER_EDGE = 64
#: Ranges per thread, so that other threads can take over from a thread that is delayed or has the larger hubs.
_RANGES = 4
#: Ranges of channels start at multiples of this: two cache lines of float32, so threads share no cache line.
_CHANNELS = 32

_pools: dict[int, ThreadPoolExecutor] = {}
# A forked process does not have its parent's threads and must not wait for them.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)


def over_rows(loop: Callable[..., int], rowptr: Any, width: int, *arguments: Any) -> int:
    """Run ``loop(rowptr, *arguments, lo, hi)`` over ranges of rows with equal numbers of edges.

    Args:
        loop: returns OK or an error, as described in ``jit``.
        rowptr: of the graph, ``[N + 1]``.
        width: the numbers that an edge moves.
        arguments: the other arguments of the loop.

    Returns:
        OK, or the first error.
    """
    num_rows, threads = rowptr.size - 1, torch.get_num_threads()
    if threads == 1 or _is_small(rowptr, width):
        return loop(rowptr, *arguments, 0, num_rows)
    edges = np.linspace(0, rowptr[-1], threads * _RANGES + 1)[1:-1]
    # Only a wrong rowptr gives unsorted bounds; the loops report it.
    bounds = sorted([0, *np.searchsorted(rowptr[:-1], edges).tolist(), num_rows])
    return _share(lambda lo, hi: loop(rowptr, *arguments, lo, hi), bounds, threads)


def over_channels(loop: Callable[..., int], rowptr: Any, width: int, *arguments: Any) -> int:
    """Run ``loop(rowptr, *arguments, lo, hi)`` over ranges of ``width`` channels; the rest as in ``over_rows``."""
    threads = min(torch.get_num_threads(), width // _CHANNELS)
    if threads <= 1 or _is_small(rowptr, width):
        return loop(rowptr, *arguments, 0, width)
    blocks = width // _CHANNELS
    bounds = [_CHANNELS * (blocks * k // threads) for k in range(threads)] + [width]
    return _share(lambda lo, hi: loop(rowptr, *arguments, lo, hi), bounds, threads)


def _is_small(rowptr: Any, width: int) -> bool:
    work: int = (int(rowptr[-1]) + rowptr.size) * (_PER_EDGE + width)
    return work < SMALL


def _share(run: Callable[[int, int], int], bounds: list[int], threads: int) -> int:
    """Run all ranges; every thread takes the next range that is left."""
    ranges, taken = list(itertools.pairwise(bounds)), itertools.count()

    def work() -> int:
        for k in taken:  # shared by all threads: its increment is atomic
            if k >= len(ranges):
                return OK
            if (outcome := run(*ranges[k])) != OK:
                return outcome
        return OK

    futures = [_pool(threads - 1).submit(work) for _ in range(threads - 1)]
    outcomes = [work()]
    outcomes += [future.result() for future in futures if not future.cancel()]  # unstarted threads have nothing to do
    return next((outcome for outcome in outcomes if outcome != OK), OK)


def _pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool of this many threads, made once."""
    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="upscale_fx")
    return _pools[threads]
