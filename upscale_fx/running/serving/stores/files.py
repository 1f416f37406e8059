"""The file operations of durable stores, in one place, so that tests can record them and let them fail."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

# One call of the system moves at most 2 GiB.
_MOST = 1 << 30

Buffer = bytes | bytearray | memoryview


class Files:
    """Files by number, as the system knows them; every method raises OSError as the system does."""

    def open(self, path: Path, *, write: bool) -> int:
        """Open a file; make it if it is to be written and is not there."""
        return os.open(path, os.O_RDWR | os.O_CREAT if write else os.O_RDONLY, 0o644)

    def read_into(self, file: int, buffer: memoryview, offset: int) -> int:
        """Fill a buffer from an offset on; return how many bytes the file had."""
        done = 0
        while done < len(buffer):
            count = os.preadv(file, [buffer[done : done + _MOST]], offset + done)
            if count == 0:
                break
            done += count
        return done

    def read_runs(self, file: int, buffer: memoryview, lengths: Sequence[int], offsets: Sequence[int]) -> None:
        """Fill a buffer with runs of a file, one after another; behind the end of the file it stays as it is."""
        at = 0
        # A call of this loop takes 1 microsecond, as long as copying 4 KiB.
        preadv = os.preadv
        for length, offset in zip(lengths, offsets, strict=True):
            part = buffer[at : at + length]
            if preadv(file, [part], offset) < length:
                self.read_into(file, part, offset)
            at += length

    def read(self, file: int, length: int, offset: int) -> bytes:
        """Return up to ``length`` bytes."""
        buffer = bytearray(length)
        return bytes(buffer[: self.read_into(file, memoryview(buffer), offset)])

    def write(self, file: int, data: Buffer, offset: int) -> None:
        """Write all of ``data``. On an error, some of it may have been written."""
        rest = memoryview(data).cast("B")
        while rest:
            count = os.pwrite(file, rest[:_MOST], offset)
            rest, offset = rest[count:], offset + count

    def size(self, file: int) -> int:
        """Return the length of a file."""
        return os.fstat(file).st_size

    def taken(self, file: int) -> int:
        """Return the bytes that a file takes on the disk: holes take none."""
        return os.fstat(file).st_blocks * 512

    def truncate(self, file: int, length: int) -> None:
        """Cut a file."""
        os.ftruncate(file, length)

    def sync(self, file: int) -> None:
        """Return when the content is safe from a loss of power."""
        os.fsync(file)

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file over another, safe from a loss of power; its content must be synced before."""
        os.replace(source, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        path.unlink(missing_ok=True)

    def close(self, file: int) -> None:
        """Let go of a file."""
        os.close(file)

    def write_whole(self, path: Path, parts: list[Buffer]) -> None:
        """Put a file in the place of another: a crash leaves the one or the other. On an error, the other stays."""
        temporary = path.with_name(path.name + ".tmp")
        self.remove(temporary)
        try:
            file = self.open(temporary, write=True)
            try:
                offset = 0
                for part in parts:
                    self.write(file, part, offset)
                    offset += memoryview(part).nbytes
                self.sync(file)
            finally:
                self.close(file)
            self.replace(temporary, path)
        except OSError:
            self.remove(temporary)
            raise
