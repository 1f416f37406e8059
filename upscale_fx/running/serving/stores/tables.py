"""All tables of a folder, by name; the log knows them by number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from upscale_fx.running.serving.stores.base import Ids, TableSpec
from upscale_fx.running.serving.stores.files import Files
from upscale_fx.running.serving.stores.history import History, Stamps
from upscale_fx.running.serving.stores.slots import SlotTable

# The caches take at most this share of all rows, so that a server stays small beside its store.
_CACHE_SHARE = 8
_LEAST_CACHE = 1 << 20


class SlotTables:
    """The tables of a folder, and the memory for their caches."""

    def __init__(
        self, files: Files, folder: Path, specs: Mapping[str, TableSpec], history: History, *, write: bool, cache: int
    ) -> None:
        self._capacity = cache
        self._tables: dict[str, SlotTable] = {}
        try:
            for number, (name, spec) in enumerate(specs.items()):
                self._tables[name] = SlotTable(files, folder / f"rows-{number}", number, spec, history, write=write)
        except BaseException:
            self.close()
            raise
        self._set_caches()

    def __getitem__(self, name: str) -> SlotTable:
        return self._tables[name]

    def _full_bytes(self) -> int:
        return sum(table.full_bytes for table in self._tables.values())

    def _set_caches(self) -> None:
        full = self._cached_for = self._full_bytes()
        capacity = min(self._capacity, max(full // _CACHE_SHARE, _LEAST_CACHE))
        for table in self._tables.values():
            table.set_cache(capacity * table.full_bytes // max(full, 1))

    def grow(self, name: str, rows: int) -> None:
        """Let a table take ids up to ``rows``."""
        self._tables[name].grow(rows)
        if self._full_bytes() > 2 * self._cached_for:
            self._set_caches()

    def prepare_expiry(self, forgotten: Mapping[str, Ids]) -> dict[int, Ids]:
        """Return what the record of a change has to say: these rows, and those that were forgotten since the last."""
        for name, ids in forgotten.items():
            self._tables[name].prepare_expiry(ids)
        none = np.zeros(0, dtype=np.int64)
        dropped = self.dropped()
        return {
            number: np.concatenate([forgotten.get(name, none), dropped[number]])
            for number, name in enumerate(self._tables)
        }

    def expire(self, forgotten: Mapping[int, Ids], stamp: int | Mapping[int, Stamps]) -> None:
        """Rows of before a stamp, or of one stamp per row, no longer count."""
        tables = list(self._tables.values())
        for number, ids in forgotten.items():
            tables[number].expire(ids, stamp if isinstance(stamp, int) else stamp[number])

    def dropped(self) -> dict[int, Ids]:
        """Return the rows that were forgotten, and not written again, since the last record."""
        return {number: table.dropped() for number, table in enumerate(self._tables.values())}

    def forgotten(self) -> dict[int, tuple[Ids, Stamps]]:
        """Return all rows that were ever forgotten in the log, and when."""
        found: dict[int, tuple[Ids, Stamps]] = {}
        for number, table in enumerate(self._tables.values()):
            ids = np.flatnonzero(table.forgotten).astype(np.int64)
            found[number] = (ids, table.forgotten[ids])
        return found

    def look_again(self) -> None:
        """Take nothing for known; for a reader."""
        for table in self._tables.values():
            table.look_again()

    @property
    def nbytes(self) -> int:
        """Bytes on the disk."""
        return sum(table.nbytes for table in self._tables.values())

    def sync(self) -> None:
        """Make the rows safe."""
        for table in self._tables.values():
            table.sync()

    def close(self) -> None:
        """Let go of all files."""
        for table in self._tables.values():
            table.close()
