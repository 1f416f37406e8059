"""One direction of the edges: for each node, the slots of the edges that have it as one end, in order of insertion.

All rows lie in one pool. A row has room for some more slots; when it is full it moves behind all others, with twice the
room. When the pool is full, rows are packed into a new one. So an edge costs constant time, on average, and what a
row holds never depends on where it lies.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from upscale_fx.running.serving.graph import loops
from upscale_fx.running.serving.stores.base import Flags, Ids

Int32 = NDArray[np.int32]
_Number = TypeVar("_Number", bound=np.generic)
# Cells of a new pool that no row has yet: a part of those that rows have, and some. Untouched, they take no memory.
_SPARE, _FEWEST = 0.5, 1024


class EdgeRows:
    """Slots by node."""

    def __init__(self, ends: Int32, alive: Flags, num_nodes: int) -> None:
        """Sort the slots that live by their nodes, ``ends[slot]``."""
        self.count = np.bincount(ends[alive], minlength=num_nodes).astype(np.int32)
        self.room = _least_room(self.count)
        self.start = np.cumsum(self.room, dtype=np.int64) - self.room
        self.used = np.array([self.room.sum(dtype=np.int64)])
        self.pool = _pool(int(self.used[0]))
        loops.run("place", ends, alive, self.start.copy(), self.pool)

    def grow(self, num_nodes: int) -> None:
        """Take nodes below a number; memory doubles, so that nodes may come one by one."""
        if num_nodes > self.count.size:
            size = max(num_nodes, 2 * self.count.size)
            start, count = enlarged(self.start, self.start.size, size), enlarged(self.count, self.count.size, size)
            self.start, self.count, self.room = start, count, enlarged(self.room, self.room.size, size)

    def insert(self, nodes: Ids, first: int) -> None:
        """Append slots ``first, first + 1, ...`` to the rows of nodes."""
        done = loops.run("insert", nodes, 0, first, self.start, self.count, self.room, self.pool, self.used)
        while done < nodes.size:
            left = nodes[done:]
            self._pack(2 * int(self.count[np.unique(left)].sum(dtype=np.int64)) + 8 * left.size)
            done = loops.run("insert", nodes, done, first, self.start, self.count, self.room, self.pool, self.used)

    def erase(self, slots: Ids, ends: Int32, alive: Flags) -> None:
        """Take out slots, ascending, that are no longer alive."""
        loops.run("erase", slots, ends, alive, self.start, self.count, self.pool)

    def gather(self, nodes: Ids, far: Int32) -> tuple[Ids, Ids, Ids]:
        """Return ``rowptr [len(nodes) + 1]``, ``far[slot]`` and the slots of the rows of nodes."""
        rowptr = np.zeros(nodes.size + 1, np.int64)
        np.cumsum(self.count[nodes], out=rowptr[1:])
        others, slots = np.empty(rowptr[-1], np.int64), np.empty(rowptr[-1], np.int64)
        loops.run("gather", nodes, self.start, self.pool, far, rowptr, others, slots)
        return rowptr, others, slots

    def renumber(self, number: Int32) -> None:
        """Put ``number[slot]`` instead of each slot."""
        loops.run("renumber", self.start, self.count, self.pool, number)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.start.nbytes + self.count.nbytes + self.room.nbytes + self.pool.nbytes

    def _pack(self, spare: int) -> None:
        """Move rows to a new pool with this many cells behind them; a row keeps room for as many slots as it has."""
        room = np.maximum(np.minimum(self.room, 2 * self.count), _least_room(self.count))
        used = int(room.sum(dtype=np.int64))
        pool, start = _pool(used, spare), np.cumsum(room, dtype=np.int64) - room
        loops.run("copy", self.start, self.count, self.pool, start, pool)
        self.start, self.room, self.pool, self.used = start, room, pool, np.array([used])


def enlarged(array: NDArray[_Number], used: int, size: int) -> NDArray[_Number]:
    """Return a larger array that begins with the first ``used`` rows of a smaller one; the rest is 0."""
    larger = np.zeros((size, *array.shape[1:]), array.dtype)
    larger[:used] = array[:used]
    return larger


def _pool(used: int, spare: int = 0) -> Int32:
    return np.zeros(used + spare + int(_SPARE * used) + _FEWEST, np.int32)


def _least_room(count: Int32) -> Int32:
    """Return room for a few more slots in rows that are not empty: most never move then, as edges come and go."""
    return np.where(count > 0, count + count // 8 + 2, 0).astype(np.int32)
