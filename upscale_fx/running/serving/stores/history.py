"""Stamps: when a row was written, in an order that no crash can confuse.

Versions alone would not do. If the end of a log is lost, its versions are given out again, and a row that was written
under a lost version would look valid once the new version of that number is reached. A stamp has two parts: the number
of the *opening* of the store, which is never given out twice, and a *count* within it, which goes up with every record
of the log. The history says up to which count each opening is known. A row is written after the record before it is
safe, so a row whose stamp lies beyond belongs to a lost or a later version, and does not count.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from upscale_fx.running.serving.stores.base import Flags

Stamps = NDArray[np.int64]

_BITS = 32
_COUNT = (1 << _BITS) - 1


def first_stamp(opening: int) -> int:
    """Return the first stamp of an opening; openings count from 1."""
    return opening << _BITS


def opening_of(stamp: int) -> int:
    """Return the opening that gave out a stamp."""
    return stamp >> _BITS


class History:
    """The stamps that are known to belong to the past of the graph as it is now.

    Attributes:
        now: the newest of them.
    """

    def __init__(self, stamps: Stamps | None = None) -> None:
        self.now = 0
        self._ends = np.full(1, -1, dtype=np.int64)
        for stamp in [] if stamps is None else stamps.tolist():
            self.see(stamp)

    def see(self, stamp: int) -> None:
        """Take a stamp of the log into the history."""
        opening = opening_of(stamp)
        if opening >= len(self._ends):
            more = np.full(opening + 1 - len(self._ends), -1, dtype=np.int64)
            self._ends = np.concatenate([self._ends, more])
        self._ends[opening] = max(int(self._ends[opening]), stamp & _COUNT)
        self.now = max(self.now, stamp)

    def holds(self, stamps: Stamps) -> Flags:
        """Tell which stamps belong to it."""
        opening = stamps >> _BITS
        known = (opening >= 1) & (opening < len(self._ends))
        return known & ((stamps & _COUNT) <= self._ends[np.where(known, opening, 0)])

    def stamps(self) -> Stamps:
        """Return the last stamp of each opening; a history of these is this one."""
        openings = np.flatnonzero(self._ends >= 0).astype(np.int64)
        return (openings << _BITS) | self._ends[openings]
