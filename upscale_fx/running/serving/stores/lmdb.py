"""Rows and changes in one LMDB environment (the extra ``serve``).

All of it is one transaction after another, each from one commit to the next: rows that were written and forgotten in
between, and the change itself. So a crash leaves the store as it was right after some commit. One process at a time.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from upscale_fx.errors import ServerError
from upscale_fx.running.serving.stores.base import Flags, Ids, Recovered, State, TableSpec
from upscale_fx.running.serving.stores.description import describe_tables
from upscale_fx.running.serving.stores.lock import FolderLock
from upscale_fx.running.serving.stores.records import DamagedError, pack_arrays, unpack_arrays

if TYPE_CHECKING:
    import lmdb

_T = TypeVar("_T")
_ROW = struct.Struct(">cHq")
_CHANGE = struct.Struct(">cq")
_DESCRIPTION, _GRAPH = b"description", b"graph"
# Address space, not disk: the environment cannot grow beyond.
_MAP_BYTES = 1 << 40


class LMDBStore:
    """Rows and changes in an LMDB environment, a folder.

    Raises:
        ImportError: lmdb is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            import lmdb  # noqa: PLC0415 - an optional dependency
        except ImportError as error:
            raise ImportError("LMDBStore needs lmdb: pip install upscale_fx[serve]") from error
        self._lmdb = lmdb
        self._path = Path(path)
        self._lock: FolderLock | None = None
        self._environment: lmdb.Environment | None = None
        self._transaction: lmdb.Transaction | None = None
        self._specs: dict[str, TableSpec] = {}
        self._numbers: dict[str, int] = {}
        self._held: dict[str, Flags] = {}

    def open(self, tables: Mapping[str, TableSpec], identity: str) -> Recovered | None:
        """Open the environment; return the graph and changes of earlier processes, None if there are none.

        Raises:
            ServerError: another process has opened it, it belongs to another model, or it cannot be read.
        """
        if self._lock is not None:
            raise ServerError(f"the store in {self._path} is open already: close it first")
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self._path / "lock")
            if not self._lock.mine:
                raise ServerError(
                    f"{self._path} was opened by {self._lock.writer()}: close it there, or take a folder as the store "
                    "(a path that does not end in .lmdb or .mdb), which a second process can read"
                )
            self._lock.tell(0, 0)
            # The lock is ours, so LMDB needs none, and calls may come from any thread.
            self._environment = self._lmdb.open(os.fspath(self._path), map_size=_MAP_BYTES, lock=False)
            self._specs = dict(tables)
            self._numbers = {name: number for number, name in enumerate(tables)}
            return self._recover(identity)
        except (OSError, self._lmdb.Error, DamagedError) as error:
            self._let_go()
            raise ServerError(f"the store in {self._path} cannot be opened: {error}") from error
        except BaseException:
            self._let_go()
            raise

    def _recover(self, identity: str) -> Recovered | None:
        transaction = self._begun()
        described = json.dumps([identity, describe_tables(self._specs)])
        found = transaction.get(_DESCRIPTION)
        if found is not None and bytes(found).decode() != described:
            raise ServerError(
                f"the store in {self._path} was written for the model and rows {bytes(found).decode()}, and this is "
                f"{described}: delete the folder or choose another"
            )
        transaction.put(_DESCRIPTION, described.encode())
        graph = transaction.get(_GRAPH)
        changes = [(_CHANGE.unpack(key)[1], value) for key, value in self._entries(b"c")]
        if graph is None and not changes:
            # Rows of a process that ended before it kept its graph may belong to any graph.
            for key, _ in list(self._entries(b"r", values=False)):
                transaction.delete(key)
        self._look_again()
        if graph is None:
            return Recovered(0, {}, changes) if changes else None
        state, facts = unpack_arrays(bytes(graph))
        return Recovered(facts["version"], state, [change for change in changes if change[0] > facts["version"]])

    def _entries(self, kind: bytes, *, values: bool = True) -> Sequence[tuple[bytes, bytes]]:
        cursor = self._begun().cursor()
        found: list[tuple[bytes, bytes]] = []
        if cursor.set_range(kind):
            for raw in cursor.iternext(keys=True, values=False):
                key = bytes(raw)
                if not key.startswith(kind) or key in (_DESCRIPTION, _GRAPH):
                    break
                found.append((key, bytes(cursor.value()) if values else b""))
        return found

    def _look_again(self) -> None:
        self._held = {name: np.zeros(spec.rows, dtype=bool) for name, spec in self._specs.items()}
        ids: dict[int, list[int]] = {number: [] for number in self._numbers.values()}
        for key, _ in self._entries(b"r", values=False):
            _, number, node = _ROW.unpack(key)
            ids[number].append(node)
        for name, number in self._numbers.items():
            self._reserve(name, max(ids[number], default=-1) + 1)
            self._held[name][ids[number]] = True

    def _reserve(self, table: str, rows: int) -> None:
        old = self._held[table]
        if rows > len(old):
            self._held[table] = np.concatenate([old, np.zeros(max(rows, 2 * len(old)) - len(old), dtype=bool)])

    def grow(self, table: str, rows: int) -> None:
        """Let a table take ids up to ``rows``."""
        self._reserve(table, rows)

    def held(self, table: str, ids: Ids) -> Flags:
        """Tell which rows are held."""
        return self._held[table][ids]

    def held_ids(self, table: str) -> Ids:
        """Return the ids of all rows that are held, ascending."""
        return np.flatnonzero(self._held[table]).astype(np.int64)

    def read(self, table: str, ids: Ids) -> Tensor:
        """Return rows.

        Raises:
            ServerError: a row is not held.
        """
        spec, number, transaction = self._specs[table], self._numbers[table], self._begun()
        rows = [transaction.get(_ROW.pack(b"r", number, node)) for node in ids.tolist()]
        right = [bytes(row) for row in rows if row is not None]
        if len(right) < len(rows):
            raise ServerError(f"rows of {table!r} are read from {self._path} that are not held: ask held() first")
        data = np.frombuffer(bytearray(b"".join(right)), dtype=np.uint8)
        return torch.from_numpy(data).view(spec.dtype).reshape(len(ids), *spec.shape)

    def write(self, table: str, ids: Ids, rows: Tensor) -> None:
        """Hold rows.

        Raises:
            ServerError: the disk is full; rows that were written since the last commit may not be held.
        """
        spec, number, transaction = self._specs[table], self._numbers[table], self._begun()
        width = math.prod(spec.shape) * spec.dtype.itemsize
        data = rows.detach().to(spec.dtype).contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

        def put() -> None:
            for place, node in enumerate(ids.tolist()):
                transaction.put(_ROW.pack(b"r", number, node), data[place * width : (place + 1) * width])

        self._try(put, "rows")
        self._held[table][ids] = True

    def forget(self, table: str, ids: Ids) -> int:
        """Forget rows; return how many of them were held."""
        number, transaction = self._numbers[table], self._begun()
        held = ids[self._held[table][ids]]
        # Those of a commit are deleted already.
        for node in held.tolist():
            transaction.delete(_ROW.pack(b"r", number, node))
        self._held[table][held] = False
        return len(held)

    def commit(self, version: int, change: bytes, forgotten: Mapping[str, Ids]) -> None:
        """Make a change durable, and these rows stale.

        Raises:
            ServerError: the disk is full or fails. The graph is as it was; rows that were written since the last commit
                may not be held.
        """
        transaction = self._begun()
        stale = {name: ids[self._held[name][ids]] for name, ids in forgotten.items()}

        def put() -> None:
            for name, ids in stale.items():
                for node in ids.tolist():
                    transaction.delete(_ROW.pack(b"r", self._numbers[name], node))
            transaction.put(_CHANGE.pack(b"c", version), change)
            self._finish()

        self._try(put, f"version {version}")

    def checkpoint(self, version: int, state: State) -> None:
        """Keep the whole graph, and drop the changes before it.

        Raises:
            ServerError: the disk is full or fails: the checkpoint before and the changes stay.
            InputError: an array of the state holds Python objects.
        """
        graph = b"".join(pack_arrays(state, {"version": version}))
        transaction = self._begun()

        def put() -> None:
            transaction.put(_GRAPH, graph)
            for key, _ in list(self._entries(b"c", values=False)):
                transaction.delete(key)
            self._finish()

        self._try(put, "a checkpoint")

    def _try(self, action: Callable[[], _T], what: str) -> _T:
        try:
            return action()
        except self._lmdb.Error as error:
            if self._transaction is not None:
                self._transaction.abort()
                self._transaction = None
            self._look_again()
            raise ServerError(f"{what} cannot be written to {self._path}: {error}; free some space") from error

    def _finish(self) -> None:
        transaction, self._transaction = self._begun(), None
        transaction.commit()

    def _begun(self) -> lmdb.Transaction:
        if self._environment is None:
            raise ServerError(f"the store in {self._path} is not open")
        if self._transaction is None:
            self._transaction = self._environment.begin(write=True)
        return self._transaction

    def refresh(self) -> Sequence[tuple[int, bytes]]:
        """Nothing to do: no other process writes."""
        return []

    @property
    def durable(self) -> bool:
        """Whether changes outlive the process."""
        return True

    @property
    def writes(self) -> bool:
        """Always, once it is open."""
        return self._environment is not None

    @property
    def log_bytes(self) -> int:
        """Bytes of the changes since the last checkpoint."""
        return sum(len(value) for _, value in self._entries(b"c"))

    @property
    def nbytes(self) -> int:
        """Bytes of the environment on the disk, changes and graph included."""
        return (self._path / "data.mdb").stat().st_blocks * 512

    def close(self) -> None:
        """Write rows that were computed since the last commit, and let go of the environment."""
        try:
            if self._transaction is not None:
                self._try(self._finish, "rows")
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._transaction is not None:
            self._transaction.abort()
        if self._environment is not None:
            self._environment.close()
        if self._lock is not None:
            self._lock.close()
        self._transaction = self._environment = self._lock = None
