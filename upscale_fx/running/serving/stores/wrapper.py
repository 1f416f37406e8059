"""A store that passes everything on to another one: what stores over stores share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from upscale_fx.running.serving.stores.base import Flags, Ids, Recovered, State, Store, TableSpec


def row_bytes(store: Store, spec: TableSpec) -> int:
    """Return the bytes that one row takes in a store."""
    if isinstance(store, WrappedStore):
        return store.row_bytes(spec)
    return math.prod(spec.shape) * spec.dtype.itemsize


class WrappedStore:
    """A store over another one."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def row_bytes(self, spec: TableSpec) -> int:
        """Return the bytes that one row of such a table takes."""
        return row_bytes(self._store, spec)

    def open(self, tables: Mapping[str, TableSpec], identity: str) -> Recovered | None:
        """Open the store below."""
        return self._store.open(tables, identity)

    def grow(self, table: str, rows: int) -> None:
        """Let a table take ids up to ``rows``."""
        self._store.grow(table, rows)

    def held(self, table: str, ids: Ids) -> Flags:
        """Tell which rows are held."""
        return self._store.held(table, ids)

    def held_ids(self, table: str) -> Ids:
        """Return the ids of all rows that are held, ascending."""
        return self._store.held_ids(table)

    def read(self, table: str, ids: Ids) -> Tensor:
        """Return rows, ``[len(ids), *shape]``."""
        return self._store.read(table, ids)

    def write(self, table: str, ids: Ids, rows: Tensor) -> None:
        """Hold rows."""
        self._store.write(table, ids, rows)

    def forget(self, table: str, ids: Ids) -> int:
        """Forget rows; return how many of them were held."""
        return self._store.forget(table, ids)

    def commit(self, version: int, change: bytes, forgotten: Mapping[str, Ids]) -> None:
        """Make a change durable, if the store below is."""
        self._store.commit(version, change, forgotten)

    def checkpoint(self, version: int, state: State) -> None:
        """Keep the whole graph, if the store below is durable."""
        self._store.checkpoint(version, state)

    def refresh(self) -> Sequence[tuple[int, bytes]]:
        """Move to the newest version that another process wrote."""
        return self._store.refresh()

    @property
    def durable(self) -> bool:
        """Whether changes outlive the process."""
        return self._store.durable

    @property
    def writes(self) -> bool:
        """Whether this process may write."""
        return self._store.writes

    @property
    def log_bytes(self) -> int:
        """Bytes of the changes since the last checkpoint."""
        return self._store.log_bytes

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take below."""
        return self._store.nbytes

    def close(self) -> None:
        """Close the store below."""
        self._store.close()
