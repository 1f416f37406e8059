"""Sets of node numbers as ascending arrays: ``numpy.unique`` hashes, which takes up to 100 times as long as flags."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from upscale_fx.running.serving.stores.base import Flags, Ids

#: Fewer numbers than this share of the largest are sorted; otherwise there is a flag for every number. Measured.
_FEW = 1 / 64


def different(numbers: Ids) -> Ids:
    """Return numbers from 0 on, in any order and with repeats, each once and ascending; the result may be the same."""
    if numbers.size < 2:
        return numbers
    bound = int(numbers.max()) + 1
    if numbers.size >= _FEW * bound:
        flags = np.zeros(bound, dtype=bool)
        flags[numbers] = True
        return np.flatnonzero(flags)
    ascending = np.sort(numbers)
    first = np.empty(ascending.size, dtype=bool)
    first[0] = True
    np.not_equal(ascending[1:], ascending[:-1], out=first[1:])
    return ascending[first]


def within(numbers: Ids, others: Ids) -> Flags:
    """Tell which numbers, from 0 on, are among others, in any order: ``numpy.isin`` sorts or hashes both."""
    if not others.size or not numbers.size:
        return np.zeros(numbers.size, dtype=bool)
    bound = int(others.max()) + 1
    if numbers.size + others.size < _FEW * bound:
        return np.isin(numbers, others)
    flags = np.zeros(bound + 1, dtype=bool)  # the last one stands for all larger numbers
    flags[others] = True
    return flags[np.minimum(numbers, bound)]


def union(parts: Sequence[Ids]) -> Ids:
    """Return the numbers of all parts, each once and ascending."""
    return different(np.concatenate(parts) if len(parts) > 1 else parts[0])
