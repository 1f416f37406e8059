"""The rows of one table, in a file of slots of fixed size.

A row is held iff
1. the checksum of its block is right (the block was written whole; the number of the block is in it, too), and
2. the stamp of the block is in the history (it does not belong to a version that was lost, or is not known yet), and
3. its bit is set, and
4. it was not forgotten after that stamp.

What a crash leaves of pages is an older block, a newer one, or a mixture. (1) excludes mixtures. An older block is
right about the rows that were not forgotten since, which is (4). A newer one was written after its record was safe, or
(2) excludes it. So rows need no sync.

A block that is written again carries its other rows along, if they are held, under the new stamp. Blocks are checked
when they are first needed. From then on the writer knows what the file holds. A reader checks all that it reads, since
the file changes: what it takes was right at a stamp of its own history, and by (4) nothing that it knows of has changed
the row since. A block of a later stamp is not held for the reader, though most of its rows may be right: it cannot know
which, before ``refresh``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from upscale_fx.errors import ServerError
from upscale_fx.running.serving.stores.base import Flags, Ids, TableSpec
from upscale_fx.running.serving.stores.blocks import BlockLayout, Blocks
from upscale_fx.running.serving.stores.cache import BlockCache
from upscale_fx.running.serving.stores.files import Files
from upscale_fx.running.serving.stores.history import History, Stamps

_UNKNOWN, _NOTHING = 0, -1


class SlotTable:
    """One table: its file, what is known of its blocks, and a cache.

    Attributes:
        rows: how many ids it takes.
        forgotten: by id, the stamp at which the log last forgot the row.
    """

    def __init__(
        self, files: Files, path: Path, number: int, spec: TableSpec, history: History, *, write: bool
    ) -> None:
        self._files, self._path, self._spec = files, path, spec
        self._history, self._writes = history, write
        self._layout = BlockLayout(number, spec)
        self._per = self._layout.per
        self._file = files.open(path, write=write)
        self._stamps = np.zeros(0, dtype=np.int64)
        self._bits = np.zeros(0, dtype=bool)
        self.forgotten = np.zeros(0, dtype=np.int64)
        self._dropped: list[Ids] = []
        self.rows = 0
        self._cache = BlockCache(self._layout.dtype, 0)
        self.grow(spec.rows)

    def grow(self, rows: int) -> None:
        """Take ids up to ``rows``."""
        self.rows = max(self.rows, rows)
        self._reserve(rows)

    def _reserve(self, rows: int) -> None:
        if rows <= len(self._bits):
            return
        blocks = -(-max(rows, len(self._bits) + len(self._bits) // 4) // self._per)
        more = blocks - len(self._stamps)
        self._stamps = np.concatenate([self._stamps, np.zeros(more, dtype=np.int64)])
        self._bits = np.concatenate([self._bits, np.zeros(more * self._per, dtype=bool)])
        self.forgotten = np.concatenate([self.forgotten, np.zeros(more * self._per, dtype=np.int64)])
        self._cache.grow(blocks)

    @property
    def full_bytes(self) -> int:
        """Bytes of all rows, were they all held."""
        return self.rows * self._layout.row_bytes

    def set_cache(self, capacity: int) -> None:
        """Make the cache this many bytes."""
        self._cache = BlockCache(self._layout.dtype, capacity // self._layout.dtype.itemsize)
        self._cache.grow(len(self._stamps))

    def held(self, ids: Ids) -> Flags:
        """Tell which rows are held."""
        self._know(ids // self._per)
        return self._bits[ids]

    def held_ids(self) -> Ids:
        """Return the ids of all rows that are held."""
        self._know(np.arange(-(-self.rows // self._per)))
        return np.flatnonzero(self._bits[: self.rows]).astype(np.int64)

    def read(self, ids: Ids) -> Tensor:
        """Return rows.

        Raises:
            ServerError: a row is not held, or no longer.
        """
        out = np.empty((len(ids), self._layout.row_bytes), dtype=np.uint8)
        for start in range(0, len(ids), self._layout.piece):
            some = ids[start : start + self._layout.piece]
            self._know(some // self._per, again=False)
            if not self._bits[some].all():
                raise ServerError(f"rows are read from {self._path} that are not held: ask held() first")
            rows = self._cache.rows(some // self._per, some % self._per)
            if rows is None:
                numbers, at = np.unique(some // self._per, return_inverse=True)
                rows = self._fetch(numbers)["rows"][at, some % self._per]
            out[start : start + len(some)] = rows
        return torch.from_numpy(out.reshape(-1)).view(self._spec.dtype).reshape(len(ids), *self._spec.shape)

    def write(self, ids: Ids, rows: Tensor) -> None:
        """Hold rows.

        Raises:
            OSError: some of the rows, and of their neighbours, may now not be held.
        """
        flat = rows.detach().to(self._spec.dtype).contiguous().reshape(-1).view(torch.uint8)
        data = flat.reshape(len(ids), self._layout.row_bytes).numpy()
        order = np.argsort(ids)
        for start in range(0, len(ids), self._layout.piece):
            some = order[start : start + self._layout.piece]
            self._write(ids[some], data[some])

    def _write(self, ids: Ids, rows: NDArray[np.uint8]) -> None:
        self._know(ids // self._per)
        numbers, at = np.unique(ids // self._per, return_inverse=True)
        old = self._stamps[numbers][:, None]
        flags = self._bits.reshape(-1, self._per)[numbers]
        flags &= self.forgotten.reshape(-1, self._per)[numbers] <= old
        flags[at, ids % self._per] = False
        blocks = np.zeros(len(numbers), dtype=self._layout.dtype)
        carried = np.flatnonzero(flags.any(axis=1))
        blocks[carried] = self._fetch(numbers[carried])
        flags[at, ids % self._per] = True
        blocks["rows"][at, ids % self._per] = rows
        blocks["stamp"] = self._history.now
        blocks["bits"] = self._layout.pack_bits(flags)
        blocks["sum"] = self._layout.checksums(blocks, numbers)
        # If writing fails, nobody knows what is there: it is looked at again.
        self._stamps[numbers] = _UNKNOWN
        self._cache.drop(numbers)
        self._layout.save(self._files, self._file, numbers, blocks)
        self._stamps[numbers] = self._history.now
        self._bits.reshape(-1, self._per)[numbers] = flags
        self._cache.put(numbers, blocks)

    def forget(self, ids: Ids) -> int:
        """Forget rows until the end of the process, or for good with the next record; return how many were held."""
        held = self.held(ids)
        self._bits[ids] = False
        stamps = self._stamps[ids // self._per]
        visible = ids[(stamps > 0) & (self.forgotten[ids] <= stamps)]
        if len(visible):
            self._dropped.append(visible)
        return int(np.count_nonzero(held))

    def dropped(self) -> Ids:
        """Return the rows that were forgotten, and not written again, since the last record."""
        if not self._dropped:
            return np.zeros(0, dtype=np.int64)
        ids = np.unique(np.concatenate(self._dropped))
        return ids[~self._bits[ids]]

    def prepare_expiry(self, ids: Ids) -> None:
        """Find out which of these rows are held now, so that ``forget`` can count them after ``expire``."""
        self._reserve(int(ids.max(initial=-1)) + 1)
        self._know(ids // self._per)

    def expire(self, ids: Ids, stamp: int | Stamps) -> None:
        """Rows of before a stamp no longer count, as a record of the log says; among them those of ``dropped``."""
        self._reserve(int(ids.max(initial=-1)) + 1)
        self.forgotten[ids] = stamp
        self._dropped.clear()

    def look_again(self) -> None:
        """Take nothing for known; for a reader, whose file changes."""
        self._stamps[:] = _UNKNOWN
        self._bits[:] = False
        self._cache.clear()

    def _know(self, numbers: Ids, *, again: bool = True) -> None:
        """Check blocks that were not checked yet; with ``again``, a reader checks those that it has not kept."""
        unknown = self._stamps[numbers] == _UNKNOWN
        if again and not self._writes:
            unknown = ~self._cache.has(numbers)
        if not unknown.any():
            return
        numbers = np.unique(numbers[unknown])
        for start in range(0, len(numbers), self._layout.piece):
            some = numbers[start : start + self._layout.piece]
            blocks = self._layout.load(self._files, self._file, some)
            right, flags = self._judge(some, blocks)
            self._stamps[some] = np.where(right, blocks["stamp"], _NOTHING)
            self._bits.reshape(-1, self._per)[some] = flags
            kept = flags.any(axis=1)
            self._cache.put(some[kept], blocks[kept])

    def _judge(self, numbers: Ids, blocks: Blocks) -> tuple[Flags, Flags]:
        """Tell which blocks are right, and which of their rows are held, ``[blocks, per]``."""
        stamps = blocks["stamp"].astype(np.int64)
        right = self._history.holds(stamps)
        right[right] = blocks["sum"][right] == self._layout.checksums(blocks[right], numbers[right])
        known = self.forgotten.reshape(-1, self._per)[numbers] <= stamps[:, None]
        return right, self._layout.flags(blocks) & known & right[:, None]

    def _fetch(self, numbers: Ids) -> Blocks:
        """Return blocks that are known, from the cache or the file."""
        here = self._cache.has(numbers)
        blocks = np.empty(len(numbers), dtype=self._layout.dtype)
        blocks[here] = self._cache.take(numbers[here])
        if here.all():
            return blocks
        missing = numbers[~here]
        loaded = self._layout.load(self._files, self._file, missing)
        if self._writes and (loaded["stamp"] != self._stamps[missing]).any():
            raise ServerError(f"{self._path} was changed from outside; close the server and open the store again")
        if not self._writes and (self._bits.reshape(-1, self._per)[missing] & ~self._judge(missing, loaded)[1]).any():
            raise ServerError(f"rows in {self._path} were just written again; call refresh(), then ask again")
        blocks[~here] = loaded
        self._cache.put(missing, loaded)
        return blocks

    @property
    def nbytes(self) -> int:
        """Bytes on the disk."""
        return self._files.taken(self._file)

    def sync(self) -> None:
        """Make the rows safe; they need it only to be there after a loss of power, not to be right."""
        self._files.sync(self._file)

    def close(self) -> None:
        """Let go of the file."""
        self._files.close(self._file)
