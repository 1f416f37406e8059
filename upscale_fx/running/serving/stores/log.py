"""The write-ahead log: records one after another, each with length, stamp, version and checksum.

A record is safe before the next is written, so only the last can be torn. A wrong record with a right one after it is
therefore damage, not a crash. The checksum covers where a record lies, so bytes of a record inside of another one's are
no record.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from upscale_fx.running.serving.stores.base import Ids
from upscale_fx.running.serving.stores.files import Files
from upscale_fx.running.serving.stores.records import DamagedError, pack_tables, unpack_tables

CHANGE = 0
OPENED = 1
FORGOTTEN = 2

# Magic, 1 if a checkpoint comes before it, its stamp, checksum.
_START = struct.Struct("<8sBqI")
_START_MAGIC = b"UFXLOG01"
# Magic, kind, stamp, version, length of what follows, checksum.
_HEAD = struct.Struct("<4sBqqQI")
_MAGIC = b"UFXr"
_SUM = struct.Struct("<I")


@dataclass(frozen=True)
class Record:
    """One record: ``forgotten`` has the rows that are no longer right from here on, by the number of their table."""

    kind: int
    stamp: int
    version: int
    forgotten: Mapping[int, Ids]
    change: bytes


class Log:
    """A log file; ``end`` is where the next record goes, or where the next is read from."""

    def __init__(self, files: Files, path: Path, *, write: bool) -> None:
        """Open a log.

        Raises:
            DamagedError: its first bytes are wrong.
        """
        self._files = files
        self._path = path
        self._file = files.open(path, write=write)
        start = files.read(self._file, _START.size, 0)
        if (
            len(start) < _START.size
            or not start.startswith(_START_MAGIC)
            or _SUM.pack(zlib.crc32(start[: -_SUM.size])) != start[-_SUM.size :]
        ):
            self.close()
            raise DamagedError("its first bytes are not those of a log")
        _, follows, self.base, _ = _START.unpack(start)
        self.follows_checkpoint = bool(follows)
        self.end = _START.size
        self._broken = False

    @staticmethod
    def create(files: Files, path: Path, base: int, *, follows_checkpoint: bool) -> None:
        """Put an empty log in the place of the one at ``path``, or of none."""
        start = _START.pack(_START_MAGIC, follows_checkpoint, base, 0)[: -_SUM.size]
        files.write_whole(path, [start + _SUM.pack(zlib.crc32(start))])

    def append(self, record: Record) -> None:
        """Write a record and return when it is safe.

        Raises:
            OSError: the disk is full or fails; the log is as it was.
        """
        if self._broken:
            raise OSError("an earlier record could neither be written nor be taken back")
        data = _pack(record, self.end)
        try:
            self._files.write(self._file, data, self.end)
            self._files.sync(self._file)
        except BaseException:
            # Also on an interrupt: half a record must not lie where the next one goes.
            self._cut()
            raise
        self.end += len(data)

    def _cut(self) -> None:
        try:
            self._files.truncate(self._file, self.end)
            self._files.sync(self._file)
        except OSError:
            self._broken = True

    def read(self, limit: int | None = None) -> list[Record]:
        """Return the whole records from ``end`` on, up to byte ``limit``, and move ``end`` behind them."""
        length = max(0, (self._files.size(self._file) if limit is None else limit) - self.end)
        data = memoryview(self._files.read(self._file, length, self.end))
        records: list[Record] = []
        at = 0
        while (found := _unpack(data[at:], self.end)) is not None:
            records.append(found[0])
            at += found[1]
            self.end += found[1]
        return records

    def repair(self) -> None:
        """Cut off what is behind ``end``: a record that was being written in a crash.

        Raises:
            DamagedError: a whole record lies behind it; then what is between was damaged later.
        """
        length = self._files.size(self._file) - self.end
        if length == 0:
            return
        rest = self._files.read(self._file, length, self.end)
        at = rest.find(_MAGIC, 1)
        while at >= 0:
            if _unpack(memoryview(rest)[at:], self.end + at) is not None:
                raise DamagedError(f"the record at byte {self.end} is damaged, and whole ones lie behind it")
            at = rest.find(_MAGIC, at + 1)
        self._files.truncate(self._file, self.end)
        self._files.sync(self._file)

    def close(self) -> None:
        """Let go of the file."""
        self._files.close(self._file)


def _pack(record: Record, offset: int) -> bytes:
    body = pack_tables(record.forgotten) + record.change
    head = _HEAD.pack(_MAGIC, record.kind, record.stamp, record.version, len(body), 0)[: -_SUM.size]
    return head + _SUM.pack(_checksum(head, body, offset)) + body


def _unpack(data: memoryview, offset: int) -> tuple[Record, int] | None:
    if len(data) < _HEAD.size or data[:4] != _MAGIC:
        return None
    _, kind, stamp, version, length, checksum = _HEAD.unpack_from(data)
    body = data[_HEAD.size : _HEAD.size + length]
    if len(body) < length or _checksum(data[: _HEAD.size - _SUM.size], body, offset) != checksum:
        return None
    forgotten, change = unpack_tables(body)
    return Record(kind, stamp, version, forgotten, bytes(change)), _HEAD.size + length


def _checksum(head: bytes | memoryview, body: bytes | memoryview, offset: int) -> int:
    return zlib.crc32(body, zlib.crc32(head, offset & 0xFFFFFFFF))
