"""How one layout is read out of another."""

from __future__ import annotations

import numpy as np

from upscale_fx.channels.positions import Positions


def grid_around(shape: tuple[int, ...], positions: Positions) -> Positions:
    """The layout of a value of this shape that holds given positions and no line without any, in order of appearance.

    What appears first comes first along every axis, so that the first of several reads is a view.
    """
    everything = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.int64).reshape(shape)
    if not shape:
        return everything
    places = np.unravel_index(positions.reshape(-1), shape)
    return everything[np.ix_(*(list(dict.fromkeys(along.tolist())) for along in places))]


def selection(have: Positions, wanted: Positions) -> list[Positions] | None:
    """Per axis the places of ``have`` to pick so that it becomes ``wanted``; None if that is not a grid."""
    if have.ndim != wanted.ndim:
        return None
    sorter = np.argsort(have, axis=None, kind="stable")
    flat = have.reshape(-1)[sorter]
    found = np.searchsorted(flat, wanted.reshape(-1))
    if np.any(found >= len(flat)) or not np.array_equal(flat[np.minimum(found, len(flat) - 1)], wanted.reshape(-1)):
        return None
    coordinates = np.unravel_index(sorter[found], have.shape)
    picks = []
    for axis in range(have.ndim):
        along = np.moveaxis(coordinates[axis].reshape(wanted.shape), axis, 0).reshape(wanted.shape[axis], -1)
        if along.size and np.any(along != along[:, :1]):
            return None
        picks.append(along[:, 0].astype(np.int64) if along.size else np.empty(0, dtype=np.int64))
    return picks
