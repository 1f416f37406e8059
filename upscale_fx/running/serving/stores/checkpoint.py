"""Checkpoints: the whole graph as arrays, what of the rows was forgotten, and the history of stamps, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from upscale_fx.running.serving.stores.base import Ids, State
from upscale_fx.running.serving.stores.files import Files
from upscale_fx.running.serving.stores.history import Stamps
from upscale_fx.running.serving.stores.records import pack_arrays, read_arrays

_STATE = "state/"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint.

    Attributes:
        stamp: of the checkpoint; records up to it are contained in it.
        version: of the graph.
        state: the graph.
        history: the last stamp of every opening.
        forgotten: rows that were forgotten, and when, by the number of their table.
    """

    stamp: int
    version: int
    state: State
    history: Stamps
    forgotten: Mapping[int, tuple[Ids, Stamps]]


def save_checkpoint(files: Files, path: Path, checkpoint: Checkpoint) -> None:
    """Put a checkpoint in the place of the one before.

    Raises:
        OSError: the disk is full or fails; the one before stays.
        InputError: an array of the state holds Python objects.
    """
    arrays: dict[str, NDArray[np.generic]] = {"history": checkpoint.history}
    for number, (ids, stamps) in checkpoint.forgotten.items():
        arrays[f"forgotten/{number}"] = np.stack([ids, stamps])
    arrays |= {_STATE + name: array for name, array in checkpoint.state.items()}
    facts = {"stamp": checkpoint.stamp, "version": checkpoint.version, "tables": len(checkpoint.forgotten)}
    files.write_whole(path, pack_arrays(arrays, facts))


def load_checkpoint(files: Files, path: Path) -> Checkpoint | None:
    """Return the checkpoint at ``path``, None if there is none.

    Raises:
        DamagedError: it is not what was written.
    """
    try:
        file = files.open(path, write=False)
    except FileNotFoundError:
        return None
    try:
        arrays, facts = read_arrays(files, file)
    finally:
        files.close(file)
    forgotten: dict[int, tuple[Ids, Stamps]] = {}
    for number in range(facts["tables"]):
        ids, stamps = arrays[f"forgotten/{number}"].astype(np.int64)
        forgotten[number] = (ids, stamps)
    state = {name.removeprefix(_STATE): array for name, array in arrays.items() if name.startswith(_STATE)}
    history = arrays["history"].astype(np.int64)
    return Checkpoint(facts["stamp"], facts["version"], state, history, forgotten)
