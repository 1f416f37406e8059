"""Compiled loops over rows of edges. Importing this file imports numba; :mod:`array_loops` has the same without it.

All arrays are flat and contiguous and have one dtype each, so that a loop is compiled once: nodes, results, ``start``
and ``used`` int64, everything else int32, ``alive`` bool. The slots in a row of the pool ascend.
"""

from __future__ import annotations

from typing import Any

from upscale_fx.operators.kernels.jit import compile_loop

#: The smallest room that a row gets when it moves.
_SMALLEST = 4


@compile_loop
def place(ends: Any, alive: Any, cursor: Any, pool: Any) -> int:
    """Write every living slot to its row, at ``cursor[node]``, which moves on."""
    for slot in range(alive.size):
        if alive[slot]:
            node = ends[slot]
            pool[cursor[node]] = slot
            cursor[node] += 1
    return 0


@compile_loop
def insert(nodes: Any, done: int, first: int, start: Any, count: Any, room: Any, pool: Any, used: Any) -> int:
    """Append slot ``first + i`` to the row of ``nodes[i]``, i from ``done``; a full row moves behind all others.

    Returns how many are appended: fewer than there are if the pool is full.
    """
    for i in range(done, nodes.size):
        node = nodes[i]
        length = count[node]
        if length == room[node]:
            wanted = max(_SMALLEST, 2 * (length + 1))
            if used[0] + wanted > pool.size:
                return i
            old, new = start[node], used[0]
            for k in range(length):
                pool[new + k] = pool[old + k]
            start[node], room[node] = new, wanted
            used[0] += wanted
        pool[start[node] + length] = first + i
        count[node] = length + 1
    return int(nodes.size)


@compile_loop
def erase(slots: Any, ends: Any, alive: Any, start: Any, count: Any, pool: Any) -> int:
    """Take dead slots out of their rows; ``slots`` are all that died, ascending."""
    for i in range(slots.size):
        slot = slots[i]
        node = ends[slot]
        begin = start[node]
        stop = begin + count[node]
        low, high = begin, stop
        while low < high:
            middle = (low + high) // 2
            if pool[middle] < slot:
                low = middle + 1
            else:
                high = middle
        # Where an earlier slot of the same row died too, this one went with it: a row is gone through once.
        if low < stop and pool[low] == slot:
            kept = low
            for k in range(low + 1, stop):
                if alive[pool[k]]:
                    pool[kept] = pool[k]
                    kept += 1
            count[node] = kept - begin
    return 0


@compile_loop
def copy(start: Any, count: Any, pool: Any, new_start: Any, new_pool: Any) -> int:
    """Copy all rows into another pool."""
    for node in range(count.size):
        old, new = start[node], new_start[node]
        for k in range(count[node]):
            new_pool[new + k] = pool[old + k]
    return 0


@compile_loop
def renumber(start: Any, count: Any, pool: Any, number: Any) -> int:
    """Put ``number[slot]`` instead of the slots in all rows."""
    for node in range(count.size):
        for k in range(start[node], start[node] + count[node]):
            pool[k] = number[pool[k]]
    return 0


@compile_loop
def gather(nodes: Any, start: Any, pool: Any, far: Any, rowptr: Any, others: Any, slots: Any) -> int:
    """Read the rows of nodes: the slots, and ``far[slot]``, the other ends."""
    for i in range(nodes.size):
        at, begin = start[nodes[i]], rowptr[i]
        for k in range(rowptr[i + 1] - begin):
            slot = pool[at + k]
            slots[begin + k] = slot
            others[begin + k] = far[slot]
    return 0


@compile_loop
def match(
    sources: Any, targets: Any, start_0: Any, count_0: Any, pool_0: Any, start_1: Any, count_1: Any, pool_1: Any,
    ends_0: Any, ends_1: Any, rowptr: Any, slots: Any,
) -> int:  # fmt: skip
    """Write the slots of the edges of each pair, as far as ``slots`` has room, and where each pair's begin.

    Returns how many there are, or ``-1 - i`` if pair i is the first that has none.
    """
    total = 0
    rowptr[0] = 0
    for i in range(sources.size):
        source, target = sources[i], targets[i]
        before = total
        if count_0[source] <= count_1[target]:  # the shorter row: only one end of most edges is a hub
            begin = start_0[source]
            for k in range(begin, begin + count_0[source]):
                slot = pool_0[k]
                if ends_1[slot] == target:
                    if total < slots.size:
                        slots[total] = slot
                    total += 1
        else:
            begin = start_1[target]
            for k in range(begin, begin + count_1[target]):
                slot = pool_1[k]
                if ends_0[slot] == source:
                    if total < slots.size:
                        slots[total] = slot
                    total += 1
        if total == before:
            return -1 - i
        rowptr[i + 1] = total
    return total
