"""What a folder holds when it is opened, and what is new in it for a reader."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from upscale_fx.errors import ServerError
from upscale_fx.running.serving.stores.base import Recovered
from upscale_fx.running.serving.stores.checkpoint import Checkpoint, load_checkpoint
from upscale_fx.running.serving.stores.files import Files
from upscale_fx.running.serving.stores.history import History
from upscale_fx.running.serving.stores.lock import FolderLock
from upscale_fx.running.serving.stores.log import CHANGE, Log, Record
from upscale_fx.running.serving.stores.records import DamagedError

_TRIES = 50
_PAUSE = 0.02


@dataclass(frozen=True)
class Past:
    """What was found: ``records`` are those that the checkpoint does not contain; no log if there is no graph."""

    history: History
    log: Log | None
    checkpoint: Checkpoint | None
    records: Sequence[Record]
    recovered: Recovered | None

    @property
    def version(self) -> int:
        """The newest version."""
        if self.recovered is None:
            return 0
        return self.recovered.changes[-1][0] if self.recovered.changes else self.recovered.version


def recover(files: Files, log_path: Path, checkpoint_path: Path) -> Past:
    """Read checkpoint and log, and cut off what a crash left half written.

    Raises:
        ServerError: what was committed cannot be told any more.
    """
    checkpoint = _load(files, checkpoint_path)
    if not log_path.exists():
        if checkpoint is not None:
            raise _damaged(log_path, "it is missing, though there is a checkpoint")
        return Past(History(), None, None, [], None)
    log = _open_log(files, log_path, write=True)
    try:
        if checkpoint is None and log.follows_checkpoint:
            raise _damaged(checkpoint_path, "it is missing")
        if checkpoint is not None and log.base > checkpoint.stamp:
            raise _damaged(checkpoint_path, "it is older than the log")
        records = log.read()
        log.repair()
    except DamagedError as error:
        log.close()
        raise _damaged(log_path, str(error)) from error
    except BaseException:
        log.close()
        raise
    past = _past(log, checkpoint, records)
    if past.recovered is not None:
        return past
    log.close()
    return replace(past, log=None)


def recover_to_read(files: Files, log_path: Path, checkpoint_path: Path, lock: FolderLock) -> Past | None:
    """Read checkpoint and log while another process writes them; None if there is nothing to read yet."""
    for _ in range(_TRIES):
        progress = lock.ask()
        checkpoint = _load(files, checkpoint_path)
        if progress is not None and log_path.exists():
            log = _open_log(files, log_path, write=False)
            # Else a checkpoint was put in place between the two: look again.
            if log.base <= progress.base and (checkpoint is None or log.base <= checkpoint.stamp):
                past = _past(log, checkpoint, log.read(progress.end if log.base == progress.base else None))
                if past.recovered is not None:
                    return past
            log.close()
        time.sleep(_PAUSE)
    return None


def follow(files: Files, path: Path, log: Log, now: int, lock: FolderLock) -> tuple[Log, list[Record]]:
    """Return the log that is written now, and the records that are new since ``log`` was read.

    Raises:
        ServerError: some of them are gone.
    """
    progress = lock.ask()
    if progress is None:
        return log, []
    if progress.base == log.base:
        return log, log.read(progress.end)
    # A checkpoint was made: all of the old log was committed, and its file is still open here.
    records = log.read()
    last = max([now, *(record.stamp for record in records)])
    new = _open_log(files, path, write=False)
    # The stamp of the checkpoint comes right after that of the last record.
    if new.base > last + 1:
        new.close()
        raise ServerError(
            f"the process that writes {path.parent} has made two checkpoints since the last refresh(), and changes "
            "between them are gone from the log: open the store again"
        )
    log.close()
    records += new.read(progress.end if progress.base == new.base else new.end)
    return new, records


def _past(log: Log, checkpoint: Checkpoint | None, records: Sequence[Record]) -> Past:
    history = History(None if checkpoint is None else checkpoint.history)
    for record in records:
        history.see(record.stamp)
    stamp = 0 if checkpoint is None else checkpoint.stamp
    records = [record for record in records if record.stamp > stamp]
    changes = [(record.version, record.change) for record in records if record.kind == CHANGE]
    if checkpoint is None and not changes:
        return Past(history, log, None, records, None)
    recovered = Recovered(
        0 if checkpoint is None else checkpoint.version, {} if checkpoint is None else checkpoint.state, changes
    )
    return Past(history, log, checkpoint, records, recovered)


def _load(files: Files, path: Path) -> Checkpoint | None:
    try:
        return load_checkpoint(files, path)
    except DamagedError as error:
        raise _damaged(path, str(error)) from error


def _open_log(files: Files, path: Path, *, write: bool) -> Log:
    try:
        return Log(files, path, write=write)
    except DamagedError as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> ServerError:
    return ServerError(
        f"{path} is damaged: {why}. What was committed cannot be told any more: delete the folder or choose another"
    )
