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
    places = places_in(have, wanted)
    if places is None:
        return None
    coordinates = np.unravel_index(places, have.shape)
    picks = []
    for axis in range(have.ndim):
        along = np.moveaxis(coordinates[axis].reshape(wanted.shape), axis, 0).reshape(wanted.shape[axis], -1)
        if along.size and np.any(along != along[:, :1]):
            return None
        picks.append(along[:, 0].astype(np.int64) if along.size else np.empty(0, dtype=np.int64))
    return picks


def places_in(have: Positions, wanted: Positions) -> Positions | None:
    """For each position of ``wanted`` its first place in ``have``, both flattened; None if one is not there."""
    held, asked = have.reshape(-1), wanted.reshape(-1)
    if not len(asked):
        return asked
    most = max(int(held.max(initial=-1)), int(asked.max()))
    place = np.full(most + 1, -1, dtype=np.int64)
    place[held[::-1]] = np.arange(len(held) - 1, -1, -1)  # of equal positions, NumPy keeps what is written last
    found: Positions = place[asked]
    return found if np.all(found >= 0) else None
