"""Who writes a folder, and how far it has come: a lock on a file, and a line in it for readers.

The system lets go of the lock when the process ends, however it ends. The line only spares a reader records whose
``commit`` has not returned: recovery does not look at it.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

_LENGTH = 96


@dataclass(frozen=True)
class Progress:
    """What the writer says: its process, the base of its log, and how many bytes of it are safe."""

    process: int
    base: int
    end: int


class FolderLock:
    """The lock of a folder.

    Attributes:
        mine: whether this object got it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.mine = True
        except BlockingIOError:
            self.mine = False

    def tell(self, base: int, end: int) -> None:
        """Say how far the log is safe. A failure is none: readers learn of it with the next change."""
        text = f"{os.getpid()} {base} {end}"
        line = f"{text} {zlib.crc32(text.encode())}".ljust(_LENGTH - 1) + "\n"
        try:
            os.pwrite(self._file, line.encode(), 0)
        except OSError:
            return

    def ask(self) -> Progress | None:
        """Return what the writer said last; None if it is just being written, or never was."""
        text, _, checksum = os.pread(self._file, _LENGTH, 0).decode(errors="replace").strip().rpartition(" ")
        if not checksum.isdigit() or int(checksum) != zlib.crc32(text.encode()):
            return None
        process, base, end = (int(part) for part in text.split())
        return Progress(process, base, end)

    def writer(self) -> str:
        """Name the process that writes, for people."""
        progress = self.ask()
        return "another process" if progress is None else f"process {progress.process}"

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._file)
