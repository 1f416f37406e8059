"""What every store of rows does.

A *table* holds one row per node for one stored value of a stage: ``[*shape]`` of one dtype, under the number of the
node. A row is *held* from ``write`` until ``forget``. A durable store also keeps the changes of the graph: it writes
every committed change to a log, and now and then the whole graph to a checkpoint, so that a new process continues where
the last one ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]
#: Arrays by name: the whole graph at one version.
State = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class TableSpec:
    """The rows of one table.

    Attributes:
        shape: of a row.
        dtype: of its numbers.
        rows: how many nodes there are; ids are below it. It grows by ``Store.grow``.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: int


@dataclass(frozen=True)
class Recovered:
    """What a durable store held when it was opened.

    Attributes:
        version: of the checkpoint.
        state: the graph at that version.
        changes: the changes committed since, oldest first, as ``Store.commit`` got them: (version, bytes).
    """

    version: int
    state: State
    changes: Sequence[tuple[int, bytes]]


class Store(Protocol):
    """Rows by table and node. Calls come from one thread at a time."""

    def open(self, tables: Mapping[str, TableSpec], identity: str) -> Recovered | None:
        """Get ready for these tables; return the graph and changes of an earlier process, None if there are none.

        ``identity`` is a digest of operations, weights and dtypes.

        Raises:
            ServerError: the store was written for another identity, or is damaged beyond repair.
        """

    def grow(self, table: str, rows: int) -> None:
        """Let a table take ids up to ``rows``."""

    def held(self, table: str, ids: Ids) -> Flags:
        """Tell which rows are held."""

    def held_ids(self, table: str) -> Ids:
        """Return the ids of all rows that are held, ascending."""

    def read(self, table: str, ids: Ids) -> Tensor:
        """Return ``[len(ids), *shape]``; all rows must be held; ids may repeat."""

    def write(self, table: str, ids: Ids, rows: Tensor) -> None:
        """Hold rows; ids are different from each other."""

    def forget(self, table: str, ids: Ids) -> int:
        """Forget rows; return how many of them were held.

        A row that is no longer right must also be in the ``forgotten`` of a commit, unless it was not held then: what
        is only forgotten here may be held again after a crash, if no commit came between.
        """

    def commit(self, version: int, change: bytes, forgotten: Mapping[str, Ids]) -> None:
        """Make a change durable, with the rows that are forgotten by it; nothing to do in memory.

        After a crash the store holds either all of it or nothing, and in the first case none of these rows, unless
        they were written again after this call. ``forget`` is called for the same rows afterwards.
        """

    def checkpoint(self, version: int, state: State) -> None:
        """Keep the whole graph at a version, so that earlier changes need not be read again."""

    def refresh(self) -> Sequence[tuple[int, bytes]]:
        """Move to the newest version that another process wrote; return the changes since the last, oldest first."""

    @property
    def durable(self) -> bool:
        """Whether changes outlive the process: what is committed need not be kept otherwise."""

    @property
    def writes(self) -> bool:
        """Whether this process may write; else another one does, and this one reads: see ``refresh``."""

    @property
    def log_bytes(self) -> int:
        """Bytes of the changes since the last checkpoint: what a new process would have to read."""

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take, in memory or on disk."""

    def close(self) -> None:
        """Write what is not yet written, and let go of files."""
