"""At most so many bytes of rows: those that are cheapest to compute again go first."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from upscale_fx.errors import InputError
from upscale_fx.running.serving.stores.base import Flags, Ids, Recovered, Store, TableSpec
from upscale_fx.running.serving.stores.wrapper import WrappedStore, row_bytes

#: The cost of computing rows of a table again, one number per id.
Cost = Callable[[str, Ids], NDArray[np.generic]]

# When it is full, this share of it is made free at once: all rows are looked at each time.
_SHARE = 16


class BoundedStore(WrappedStore):
    """A store with a capacity. It counts bytes of rows; what a durable store keeps besides is not counted."""

    is_bounded = True

    def __init__(self, store: Store, capacity: int, cost: Cost) -> None:
        super().__init__(store)
        self._capacity = capacity
        self._cost = cost
        self._row_bytes: dict[str, int] = {}
        self._held: dict[str, Flags] = {}
        # By row, the number of the last call that read or wrote it.
        self._used: dict[str, NDArray[np.int64]] = {}
        self._calls = 0
        self._bytes = 0

    def open(self, tables: Mapping[str, TableSpec], identity: str) -> Recovered | None:
        """Open the store below; if it holds too much, the cheapest rows go."""
        recovered = super().open(tables, identity)
        self._bytes = 0
        for name, spec in tables.items():
            self._row_bytes[name] = row_bytes(self._store, spec)
            self._held[name] = np.zeros(spec.rows, dtype=bool)
            self._used[name] = np.zeros(spec.rows, dtype=np.int64)
            if self.writes:
                self._note(name, self._store.held_ids(name), True)
        self._make_room(0)
        return recovered

    def grow(self, table: str, rows: int) -> None:
        """Let a table take ids up to ``rows``."""
        super().grow(table, rows)
        more = max(rows, 2 * len(self._held[table])) - len(self._held[table])
        if rows > len(self._held[table]):
            self._held[table] = np.concatenate([self._held[table], np.zeros(more, dtype=bool)])
            self._used[table] = np.concatenate([self._used[table], np.zeros(more, dtype=np.int64)])
            if self.writes:
                # A durable store may hold rows of nodes that it did not know of when it was opened.
                new = self._store.held_ids(table)
                self._note(table, new[~self._held[table][new]], True)
                self._make_room(0)

    def read(self, table: str, ids: Ids) -> Tensor:
        """Return rows, ``[len(ids), *shape]``."""
        self._touch(table, ids)
        return super().read(table, ids)

    def write(self, table: str, ids: Ids, rows: Tensor) -> None:
        """Hold rows; if they alone are too many, those that are dearest to compute."""
        most = self._capacity // max(1, self._row_bytes[table])
        if len(ids) > most:
            kept = np.sort(np.argsort(-np.asarray(self._cost(table, ids), dtype=float), kind="stable")[:most])
            ids, rows = ids[kept], rows[kept]
        self._touch(table, ids)
        new = ids[~self._held[table][ids]]
        self._make_room(len(new) * self._row_bytes[table], keep=(table, ids))
        super().write(table, ids, rows)
        self._note(table, new, True)

    def forget(self, table: str, ids: Ids) -> int:
        """Forget rows; return how many of them were held."""
        count = super().forget(table, ids)
        self._note(table, ids[self._held[table][ids]], False)
        return count

    def _touch(self, table: str, ids: Ids) -> None:
        self._calls += 1
        self._used[table][ids] = self._calls

    def _note(self, table: str, ids: Ids, held: bool) -> None:
        self._held[table][ids] = held
        self._bytes += (1 if held else -1) * len(ids) * self._row_bytes[table]

    def _make_room(self, needed: int, keep: tuple[str, Ids] | None = None) -> None:
        excess = self._bytes + needed - self._capacity
        if excess <= 0:
            return
        names = list(self._held)
        ids = [np.flatnonzero(self._held[name]).astype(np.int64) for name in names]
        if keep is not None:
            at = names.index(keep[0])
            ids[at] = np.setdiff1d(ids[at], keep[1])
        costs = np.concatenate([np.asarray(self._cost(*pair), dtype=float) for pair in zip(names, ids, strict=True)])
        used = np.concatenate([self._used[name][some] for name, some in zip(names, ids, strict=True)])
        owner = np.repeat(np.arange(len(names)), [len(some) for some in ids])
        order = np.lexsort((used, costs))
        freed = np.cumsum(np.array([self._row_bytes[name] for name in names])[owner[order]])
        wanted = max(excess, min(self._capacity // _SHARE, self._bytes))
        gone = np.zeros(len(order), dtype=bool)
        gone[order[: int(np.searchsorted(freed, wanted)) + 1]] = True
        start = 0
        for name, some in zip(names, ids, strict=True):
            chosen = some[gone[start : start + len(some)]]
            start += len(some)
            if len(chosen):
                self.forget(name, chosen)


def bounded(store: Store, capacity: int, cost: Cost) -> BoundedStore:
    """Return a store that keeps at most ``capacity`` bytes of rows in ``store``.

    Args:
        store: where the rows are kept.
        capacity: bytes of rows, of all tables together.
        cost: of computing rows again; among rows of one cost, those that were not used for longest go first.

    Raises:
        InputError: the capacity is negative.
    """
    if capacity < 0:
        raise InputError(f"capacity must be a number of bytes, not {capacity}")
    return BoundedStore(store, capacity, cost)
