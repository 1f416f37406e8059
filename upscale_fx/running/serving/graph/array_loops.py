"""The loops of :mod:`compiled_loops` on whole arrays, for machines where numba does not work: same arguments, results.

Rows may come to lie elsewhere in the pool than they would there; what they hold is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from upscale_fx.running.serving.stores.base import Ids

_SMALLEST = 4


def place(ends: Any, alive: Any, cursor: Any, pool: Any) -> int:
    """Write every living slot to its row, at ``cursor[node]``."""
    slots = np.flatnonzero(alive)
    count = np.bincount(ends[slots], minlength=cursor.size)
    pool[_places(cursor, count)] = slots[np.argsort(ends[slots], kind="stable")]
    return 0


def insert(nodes: Any, done: int, first: int, start: Any, count: Any, room: Any, pool: Any, used: Any) -> int:
    """Append slots to rows: all that are left, or none if the pool is full."""
    nodes, first = nodes[done:], first + done
    order = np.argsort(nodes, kind="stable")
    rows, begins, more = np.unique(nodes[order], return_index=True, return_counts=True)
    lengths = count[rows].astype(np.int64)
    full = lengths + more > room[rows]
    wanted = np.maximum(_SMALLEST, 2 * (lengths + more))[full]
    if used[0] + wanted.sum() > pool.size:
        return done
    moved, kept = rows[full], lengths[full]
    new = used[0] + np.cumsum(wanted) - wanted
    pool[_places(new, kept)] = pool[_places(start[moved], kept)]
    start[moved], room[moved] = new, wanted
    used[0] += wanted.sum()
    pool[np.repeat(start[rows] + lengths - begins, more) + np.arange(order.size)] = first + order
    count[rows] += more.astype(count.dtype)
    return done + int(nodes.size)


def erase(slots: Any, ends: Any, alive: Any, start: Any, count: Any, pool: Any) -> int:
    """Take dead slots out of their rows."""
    rows = np.unique(ends[slots])
    lengths = count[rows].astype(np.int64)
    held = pool[_places(start[rows], lengths)]
    lives = alive[held]
    left = np.bincount(np.repeat(np.arange(rows.size), lengths)[lives], minlength=rows.size)
    pool[_places(start[rows], left)] = held[lives]
    count[rows] = left
    return 0


def copy(start: Any, count: Any, pool: Any, new_start: Any, new_pool: Any) -> int:
    """Copy all rows into another pool."""
    new_pool[_places(new_start, count)] = pool[_places(start, count)]
    return 0


def renumber(start: Any, count: Any, pool: Any, number: Any) -> int:
    """Put ``number[slot]`` instead of the slots in all rows."""
    places = _places(start, count)
    pool[places] = number[pool[places]]
    return 0


def gather(nodes: Any, start: Any, pool: Any, far: Any, rowptr: Any, others: Any, slots: Any) -> int:
    """Read the rows of nodes."""
    slots[:] = pool[_places(start[nodes], np.diff(rowptr))]
    others[:] = far[slots]
    return 0


def match(
    sources: Any, targets: Any, start_0: Any, count_0: Any, pool_0: Any, start_1: Any, count_1: Any, pool_1: Any,
    ends_0: Any, ends_1: Any, rowptr: Any, slots: Any,
) -> int:  # fmt: skip
    """Find the edges of each pair in the shorter of two rows."""
    left = count_0[sources] <= count_1[targets]
    lengths = np.where(left, count_0[sources], count_1[targets]).astype(np.int64)
    places = _places(np.where(left, start_0[sources], start_1[targets]), lengths)
    pair = np.repeat(np.arange(sources.size), lengths)
    near = left[pair]
    candidates = np.empty(places.size, np.int64)
    candidates[near], candidates[~near] = pool_0[places[near]], pool_1[places[~near]]
    hit = (ends_0[candidates] == sources[pair]) & (ends_1[candidates] == targets[pair])
    found = np.bincount(pair[hit], minlength=sources.size)
    if not found.all():
        return -1 - int(np.argmin(found))
    rowptr[0] = 0
    np.cumsum(found, out=rowptr[1:])
    fits = min(int(rowptr[-1]), slots.size)
    slots[:fits] = candidates[hit][:fits]
    return int(rowptr[-1])


def _places(start: Any, lengths: Any) -> Ids:
    """Return ``start[i], start[i] + 1, ...``, ``lengths[i]`` of them, for each i, one behind the other."""
    stops = np.cumsum(lengths, dtype=np.int64)
    total = int(stops[-1]) if stops.size else 0
    return np.repeat(start - (stops - lengths), lengths) + np.arange(total)
