"""A *block*: a few neighbouring rows of a table in one slot of a file, with checksum, stamp and a bit per row.

One row would do if it is wide; of narrow rows a block has so many that what goes with them stays under 5 %.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from upscale_fx.running.serving.stores.base import Flags, Ids, TableSpec
from upscale_fx.running.serving.stores.files import Files

#: Blocks, an array of one structured dtype.
Blocks = NDArray[Any]

_HEAD = 12
_MOST_ROWS = 512
# Bytes that are read besides, where that is quicker than another call (measured: 2 to 8 KiB are equally quick).
_GAP = 2048
# Bytes of blocks that are in work at one time.
_PIECE = 1 << 22


def rows_per_block(row_bytes: int) -> int:
    """Return the least power of two with which what goes with the rows, apart from their bits, takes 2.6 % at most."""
    rows = 1
    while rows < _MOST_ROWS and 0.026 * rows * row_bytes < _HEAD:
        rows *= 2
    return rows


class BlockLayout:
    """What the blocks of a table look like in its file.

    Attributes:
        row_bytes: bytes of one row.
        per: rows in a block.
        dtype: of a block: ``sum``, ``stamp``, ``bits`` and ``rows``, the last ``[per, row_bytes]``.
        piece: how many blocks may be in work at one time.
    """

    def __init__(self, number: int, spec: TableSpec) -> None:
        self.row_bytes = math.prod(spec.shape) * spec.dtype.itemsize
        self.per = rows_per_block(self.row_bytes)
        bits, rows = (-(-self.per // 8),), (self.per, self.row_bytes)
        fields: list[Any] = [("sum", "<u4"), ("stamp", "<i8"), ("bits", "u1", bits), ("rows", "u1", rows)]
        self.dtype: np.dtype[Any] = np.dtype(fields)
        self.piece = max(1, _PIECE // self.dtype.itemsize)
        self._salt = number << 24

    def checksums(self, blocks: Blocks, numbers: Ids) -> NDArray[np.uint32]:
        """Return the checksum of each block at its place in this table."""
        size = self.dtype.itemsize
        view = np.ascontiguousarray(blocks).view(np.uint8).data
        seeds = ((numbers + self._salt) & 0xFFFFFFFF).tolist()
        sums = [zlib.crc32(view[i * size + 4 : (i + 1) * size], seed) for i, seed in enumerate(seeds)]
        return np.array(sums, dtype=np.uint32)

    def pack_bits(self, flags: Flags) -> NDArray[np.uint8]:
        """Return the bits of flags ``[blocks, per]``."""
        return np.packbits(flags, axis=1, bitorder="little")

    def flags(self, blocks: Blocks) -> Flags:
        """Return which rows the bits say are there, ``[blocks, per]``."""
        return np.unpackbits(blocks["bits"], axis=1, bitorder="little", count=self.per).astype(bool)

    def load(self, files: Files, file: int, numbers: Ids) -> Blocks:
        """Read blocks, of ascending numbers, a run of neighbours at once; zeros behind the end of the file."""
        size = self.dtype.itemsize
        starts, ends = _runs(numbers, _GAP // size)
        first = numbers[starts]
        lengths = numbers[ends - 1] + 1 - first
        places = np.cumsum(lengths) - lengths
        raw = np.zeros(int(lengths.sum()) * size, dtype=np.uint8)
        files.read_runs(file, raw.data, (lengths * size).tolist(), (first * size).tolist())
        blocks: Blocks = raw.view(self.dtype)
        if len(blocks) == len(numbers):
            return blocks
        return blocks[np.repeat(places - first, ends - starts) + numbers]

    def save(self, files: Files, file: int, numbers: Ids, blocks: Blocks) -> None:
        """Write blocks, of ascending numbers, a run of neighbours at once."""
        data, size = blocks.view(np.uint8).data, self.dtype.itemsize
        starts, ends = _runs(numbers, 0)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            files.write(file, data[start * size : end * size], int(numbers[start]) * size)


def _runs(numbers: Ids, gap: int) -> tuple[Ids, Ids]:
    """Return starts and ends of the runs of ascending numbers that leave out at most ``gap`` in a row."""
    cuts = np.flatnonzero(np.diff(numbers) > gap + 1).astype(np.int64) + 1
    return np.append(np.zeros(1, dtype=np.int64), cuts), np.append(cuts, len(numbers))
