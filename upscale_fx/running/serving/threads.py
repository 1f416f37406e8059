"""Small products on one thread: beside other work, two threads made one of 64 rows 60 times as slow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: Multiply-adds below which one thread computes.
_FEW = 1e6


@contextmanager
def few_threads(macs: float) -> Iterator[None]:
    """Compute with one thread if there is little to do."""
    before = torch.get_num_threads()
    if macs >= _FEW or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
