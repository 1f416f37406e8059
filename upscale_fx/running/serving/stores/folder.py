"""Rows in a folder, and a log of the changes of the graph: what was computed and committed outlives the process.

The files:

- ``store.json``: the model, the tables, and how often the folder was opened for writing.
- ``rows-0``, ``rows-1``...: one per table; see slots.py for when a row in them counts.
- ``log``: committed changes with the rows that each made stale; one sync per commit; see log.py.
- ``checkpoint``: the whole graph, and what the log before it said of rows. It is put in place whole; then the log
  starts anew. A crash between the two leaves records in the log that the checkpoint contains; their stamps tell.
- ``lock``: held by the process that writes. A process that comes later reads: see ``FolderStore.refresh``.

What a reader sees is one version: the records that it has read, whose ``commit`` has returned in the process that
writes, and rows that are right for that version (slots.py). It moves to a newer one only in ``refresh``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from upscale_fx.errors import ServerError
from upscale_fx.running.serving.stores.base import Flags, Ids, Recovered, State, TableSpec
from upscale_fx.running.serving.stores.checkpoint import Checkpoint, save_checkpoint
from upscale_fx.running.serving.stores.description import Description, describe_tables
from upscale_fx.running.serving.stores.files import Files
from upscale_fx.running.serving.stores.history import History
from upscale_fx.running.serving.stores.lock import FolderLock
from upscale_fx.running.serving.stores.log import CHANGE, FORGOTTEN, Log, Record
from upscale_fx.running.serving.stores.opening import Paths, open_to_read, open_to_write
from upscale_fx.running.serving.stores.recovery import Past, follow
from upscale_fx.running.serving.stores.slots import SlotTable
from upscale_fx.running.serving.stores.tables import SlotTables


class FolderStore:
    """Rows and changes in a folder.

    Args:
        path: of the folder; it is made if it is not there.
        capacity_cache_bytes: rows kept in memory take at most this, and at most an eighth of all rows.
        files: the operations on files.
    """

    def __init__(self, path: str | Path, *, capacity_cache_bytes: int = 64 << 20, files: Files | None = None) -> None:
        self._paths = Paths(Path(path))
        self._capacity = capacity_cache_bytes
        self._files = Files() if files is None else files
        self._tables: SlotTables | None = None
        self._lock: FolderLock | None = None
        self._log: Log | None = None
        self._history = History()
        self._process = 0

    def open(self, tables: Mapping[str, TableSpec], identity: str) -> Recovered | None:
        """Open the folder, for writing if no process writes it, else for reading.

        Returns:
            The graph and changes of earlier processes, None if there are none: then no row is held either. The state
            is empty if there was never a checkpoint.

        Raises:
            ServerError: the folder belongs to another model, is damaged, or cannot be read or written.
        """
        if self._lock is not None:
            raise ServerError(f"the store in {self._paths.folder} is open already: close it first")
        self._process = os.getpid()
        try:
            self._paths.folder.mkdir(parents=True, exist_ok=True)
            lock = self._lock = FolderLock(self._paths.lock)
            wanted = Description(identity, describe_tables(tables), 1)
            if lock.mine:
                past, self._log = open_to_write(self._files, self._paths, wanted)
            else:
                past, self._log = open_to_read(self._files, self._paths, wanted, lock)
            self._history = past.history
            self._make_tables(tables, past, write=lock.mine)
            if lock.mine:
                self._tell()
        except OSError as error:
            self._let_go()
            raise ServerError(f"the store in {self._paths.folder} cannot be opened: {error}") from error
        except BaseException:
            self._let_go()
            raise
        return past.recovered

    def _make_tables(self, specs: Mapping[str, TableSpec], past: Past, *, write: bool) -> None:
        tables = self._tables = SlotTables(
            self._files, self._paths.folder, specs, self._history, write=write, cache=self._capacity
        )
        if past.checkpoint is not None:
            forgotten = past.checkpoint.forgotten
            tables.expire(
                {number: ids for number, (ids, _) in forgotten.items()},
                {number: stamps for number, (_, stamps) in forgotten.items()},
            )
        for record in past.records:
            tables.expire(record.forgotten, record.stamp)

    def grow(self, table: str, rows: int) -> None:
        """Let a table take ids up to ``rows``."""
        self._ready()[1].grow(table, rows)

    def held(self, table: str, ids: Ids) -> Flags:
        """Tell which rows are held."""
        return self._table(table).held(ids)

    def held_ids(self, table: str) -> Ids:
        """Return the ids of all rows that are held, ascending; reads all rows that were not yet needed."""
        return self._table(table).held_ids()

    def read(self, table: str, ids: Ids) -> Tensor:
        """Return rows.

        Raises:
            ServerError: a row is not held; or the process that writes has just written it again: ``refresh``.
        """
        return self._table(table).read(ids)

    def write(self, table: str, ids: Ids, rows: Tensor) -> None:
        """Hold rows.

        Raises:
            ServerError: another process writes; or the disk is full: then some of these rows, and of their neighbours,
                are not held.
        """
        self._must_write()
        try:
            self._table(table).write(ids, rows)
        except OSError as error:
            raise ServerError(f"rows cannot be written to {self._paths.folder}: {error}; free some space") from error

    def forget(self, table: str, ids: Ids) -> int:
        """Forget rows; return how many of them were held.

        They are forgotten for good with the next commit or checkpoint, or when the store is closed. After a crash
        before that, they may be held again; they are right then, as no change was committed in between.
        """
        self._must_write()
        return self._table(table).forget(ids)

    def commit(self, version: int, change: bytes, forgotten: Mapping[str, Ids]) -> None:
        """Make a change durable, and these rows stale: one record in the log, one sync.

        Raises:
            ServerError: another process writes; or the disk is full or fails. Nothing is changed then.
        """
        _, tables = self._must_write()
        record = Record(CHANGE, self._history.now + 1, version, tables.prepare_expiry(forgotten), change)
        self._append(record, f"version {version}")

    def _append(self, record: Record, what: str) -> None:
        log, tables = self._ready()
        try:
            log.append(record)
        except OSError as error:
            raise ServerError(
                f"{what} cannot be written to {self._paths.log}: {error}; nothing was changed: free some space"
            ) from error
        self._history.see(record.stamp)
        tables.expire(record.forgotten, record.stamp)
        self._tell()

    def _log_dropped(self, tables: SlotTables) -> None:
        dropped = tables.dropped()
        if any(len(ids) for ids in dropped.values()):
            self._append(Record(FORGOTTEN, self._history.now + 1, 0, dropped, b""), "what was forgotten")

    def checkpoint(self, version: int, state: State) -> None:
        """Keep the whole graph, and start the log anew.

        Raises:
            ServerError: another process writes; or the disk is full or fails: the checkpoint before and the log stay.
            InputError: an array of the state holds Python objects.
        """
        log, tables = self._must_write()
        # A reader follows the log, not the checkpoint: it must learn what the next change will not name.
        self._log_dropped(tables)
        stamp = self._history.now + 1
        history = History(self._history.stamps())
        history.see(stamp)
        kept = Checkpoint(stamp, version, state, history.stamps(), tables.forgotten())
        try:
            save_checkpoint(self._files, self._paths.checkpoint, kept)
            self._history.see(stamp)
            # If this fails, the log goes on; what the checkpoint contains of it is passed over.
            Log.create(self._files, self._paths.log, stamp, follows_checkpoint=True)
            self._log = Log(self._files, self._paths.log, write=True)
        except OSError as error:
            raise ServerError(
                f"a checkpoint cannot be written to {self._paths.folder}: {error}; the log goes on: free some space"
            ) from error
        log.close()
        self._tell()

    def refresh(self) -> Sequence[tuple[int, bytes]]:
        """Move a reader to the newest version; return the changes since, as ``commit`` got them.

        Rows that the writer computed since can be held after it. In the process that writes there is nothing to do.

        Raises:
            ServerError: two checkpoints were made since the last call, so that changes are missing: open it again.
        """
        log, tables = self._ready()
        assert self._lock is not None
        if self._lock.mine:
            return []
        self._log, records = follow(self._files, self._paths.log, log, self._history.now, self._lock)
        tables.look_again()
        if self._log is not log:
            self._history.see(self._log.base)
        for record in records:
            self._history.see(record.stamp)
            tables.expire(record.forgotten, record.stamp)
        return [(record.version, record.change) for record in records if record.kind == CHANGE]

    @property
    def durable(self) -> bool:
        """Whether changes outlive the process."""
        return True

    @property
    def writes(self) -> bool:
        """Whether this process may write; else another one does, and this one reads."""
        return self._lock is not None and self._lock.mine

    @property
    def log_bytes(self) -> int:
        """Bytes of the log: what a new process has to read besides the checkpoint."""
        return self._ready()[0].end

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take on the disk."""
        return self._ready()[1].nbytes

    def close(self) -> None:
        """Write what was forgotten, make rows safe, and let go of the folder.

        Raises:
            ServerError: the disk is full or fails; the folder is let go all the same, and is right.
        """
        try:
            if self._tables is not None and self.writes and self._process == os.getpid():
                self._log_dropped(self._tables)
                self._tables.sync()
        except OSError as error:
            raise ServerError(f"rows cannot be made safe in {self._paths.folder}: {error}") from error
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._tables is not None:
            self._tables.close()
        if self._log is not None:
            self._log.close()
        if self._lock is not None:
            self._lock.close()
        self._tables = self._log = self._lock = None

    def _tell(self) -> None:
        assert self._lock is not None
        assert self._log is not None
        self._lock.tell(self._log.base, self._log.end)

    def _ready(self) -> tuple[Log, SlotTables]:
        if self._log is None or self._tables is None:
            raise ServerError(f"the store in {self._paths.folder} is not open")
        return self._log, self._tables

    def _table(self, name: str) -> SlotTable:
        return self._ready()[1][name]

    def _must_write(self) -> tuple[Log, SlotTables]:
        ready = self._ready()
        if self._lock is not None and not self._lock.mine:
            raise ServerError(
                f"the store in {self._paths.folder} is written by {self._lock.writer()}; this process only reads it: "
                "change the graph there, or close both and open the store again"
            )
        if self._process != os.getpid():
            raise ServerError(
                f"the store in {self._paths.folder} was opened by process {self._process}: a fork of it may not write"
            )
        return ready
