"""Opening a folder: what it was written for, what it holds, and the next opening in its log."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from upscale_fx.errors import ServerError
from upscale_fx.running.serving.stores.description import Description, read_description, write_description
from upscale_fx.running.serving.stores.files import Files
from upscale_fx.running.serving.stores.history import History, first_stamp, opening_of
from upscale_fx.running.serving.stores.lock import FolderLock
from upscale_fx.running.serving.stores.log import OPENED, Log, Record
from upscale_fx.running.serving.stores.recovery import Past, recover, recover_to_read


@dataclass(frozen=True)
class Paths:
    """The files of a folder, apart from its rows."""

    folder: Path

    @property
    def description(self) -> Path:
        """What the folder was written for."""
        return self.folder / "store.json"

    @property
    def log(self) -> Path:
        """The changes."""
        return self.folder / "log"

    @property
    def checkpoint(self) -> Path:
        """The graph."""
        return self.folder / "checkpoint"

    @property
    def lock(self) -> Path:
        """Who writes."""
        return self.folder / "lock"


def open_to_write(files: Files, paths: Paths, wanted: Description) -> tuple[Past, Log]:
    """Recover what the folder holds, and begin the next opening in its log.

    Raises:
        ServerError: the folder is of something else, or damaged.
        OSError: it cannot be read or written.
    """
    found = read_description(files, paths.description, wanted)
    if found is None and (paths.log.exists() or paths.checkpoint.exists()):
        raise ServerError(f"{paths.description} is missing: delete the folder or choose another")
    past = recover(files, paths.log, paths.checkpoint)
    opening = max(0 if found is None else found.opening, opening_of(past.history.now)) + 1
    stamp = first_stamp(opening)
    log = past.log
    try:
        write_description(files, paths.description, replace(wanted, opening=opening))
        if log is None:
            # Rows of a process that ended before it kept its graph may be of any graph: the history is without them.
            past = Past(History(), None, None, [], None)
            Log.create(files, paths.log, stamp, follows_checkpoint=False)
            log = Log(files, paths.log, write=True)
        past.history.see(stamp)
        log.append(Record(OPENED, stamp, past.version, {}, b""))
    except BaseException:
        if log is not None:
            log.close()
        raise
    return past, log


def open_to_read(files: Files, paths: Paths, wanted: Description, lock: FolderLock) -> tuple[Past, Log]:
    """Read what the folder holds while another process writes it.

    Raises:
        ServerError: the folder is of something else, damaged, or holds no graph yet.
        OSError: it cannot be read.
    """
    found = read_description(files, paths.description, wanted)
    past = recover_to_read(files, paths.log, paths.checkpoint, lock)
    if found is None or past is None or past.log is None:
        raise ServerError(
            f"the store in {paths.folder} is just being made by {lock.writer()}: try again when it holds a graph"
        )
    return past, past.log
