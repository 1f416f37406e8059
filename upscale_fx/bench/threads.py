"""The number of threads of torch and numba."""

from __future__ import annotations

import importlib
import importlib.util

import torch


def use_threads(count: int | None) -> None:
    """Let torch and, where it is installed, numba use this many threads; None leaves them as they are."""
    if count is None:
        return
    torch.set_num_threads(count)
    if importlib.util.find_spec("numba") is not None:
        numba = importlib.import_module("numba")
        numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))  # numba takes no more than it started with
