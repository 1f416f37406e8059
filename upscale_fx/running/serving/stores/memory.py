"""Rows in memory: one tensor per table, and a flag per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from upscale_fx.running.serving.stores.base import Flags, Ids, Recovered, State, TableSpec


class MemoryStore:
    """Rows that end with the process."""

    def __init__(self) -> None:
        self._specs: dict[str, TableSpec] = {}
        self._rows: dict[str, Tensor] = {}
        self._held: dict[str, Flags] = {}

    def open(self, tables: Mapping[str, TableSpec], identity: str) -> Recovered | None:
        """Make empty tables."""
        for name, spec in tables.items():
            self._specs[name] = spec
            self._rows[name] = torch.zeros((spec.rows, *spec.shape), dtype=spec.dtype)
            self._held[name] = np.zeros(spec.rows, dtype=bool)
        return None

    def grow(self, table: str, rows: int) -> None:
        """Let a table take ids up to ``rows``; its memory doubles when it is full."""
        if rows <= len(self._held[table]):
            return
        more = max(rows, 2 * len(self._held[table])) - len(self._held[table])
        old = self._rows[table]
        self._rows[table] = torch.cat([old, old.new_zeros((more, *old.shape[1:]))])
        self._held[table] = np.concatenate([self._held[table], np.zeros(more, dtype=bool)])

    def held(self, table: str, ids: Ids) -> Flags:
        """Tell which rows are held."""
        return self._held[table][ids]

    def held_ids(self, table: str) -> Ids:
        """Return the ids of all rows that are held, ascending."""
        return np.flatnonzero(self._held[table]).astype(np.int64)

    def read(self, table: str, ids: Ids) -> Tensor:
        """Return rows, ``[len(ids), *shape]``."""
        return self._rows[table].index_select(0, torch.from_numpy(ids))

    def write(self, table: str, ids: Ids, rows: Tensor) -> None:
        """Hold rows."""
        self._rows[table].index_copy_(0, torch.from_numpy(ids), rows.to(self._rows[table].dtype))
        self._held[table][ids] = True

    def forget(self, table: str, ids: Ids) -> int:
        """Forget rows; return how many of them were held."""
        flags = self._held[table]
        count = int(np.count_nonzero(flags[ids]))
        flags[ids] = False
        return count

    def commit(self, version: int, change: bytes, forgotten: Mapping[str, Ids]) -> None:
        """Nothing to do: nothing outlives the process."""

    def checkpoint(self, version: int, state: State) -> None:
        """Nothing to do: nothing outlives the process."""

    def refresh(self) -> Sequence[tuple[int, bytes]]:
        """Nothing to do: no other process writes here."""
        return []

    @property
    def durable(self) -> bool:
        """Whether changes outlive the process."""
        return False

    @property
    def writes(self) -> bool:
        """Always."""
        return True

    @property
    def log_bytes(self) -> int:
        """Nothing is kept of changes."""
        return 0

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that are held."""
        return sum(
            int(np.count_nonzero(flags)) * self._rows[name][:0].new_empty(self._specs[name].shape).nbytes
            for name, flags in self._held.items()
        )

    def close(self) -> None:
        """Drop the tables."""
        self._rows.clear()
        self._held.clear()
