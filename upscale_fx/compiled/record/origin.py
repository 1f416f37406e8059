"""Where the entries of a parameter were before channels were removed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Origin:
    """The homes of a parameter's entries.

    Attributes:
        name: the parameter they were first part of.
        shape: its shape.
        picks: None where all of it is left in place; per axis which lines were picked, in order, where that says it
            (a cut is rarely anything else); or the places of single entries, in the shape they have now.
    """

    name: str
    shape: tuple[int, ...]
    picks: tuple[Positions, ...] | Positions | None = None

    @property
    def places(self) -> Positions:
        """For every entry its place in the parameter it was first part of, flattened; in the shape it has now."""
        if isinstance(self.picks, np.ndarray):
            return self.picks.astype(np.int64)
        whole = np.arange(int(np.prod(self.shape, dtype=np.int64)), dtype=np.int64).reshape(self.shape)
        return whole if self.picks is None else whole[np.ix_(*self.picks)]

    def cut(self, layout: Positions) -> Origin:
        """The homes of the entries at some (flat) positions of this parameter, arranged as these are."""
        places = self.places.reshape(-1)[layout]
        whole = places.shape == self.shape and np.array_equal(places.reshape(-1), np.arange(places.size))
        return Origin(self.name, self.shape, None if whole else _compressed(places, self.shape))


def _compressed(places: Positions, shape: tuple[int, ...]) -> tuple[Positions, ...] | Positions:
    """Places as picks along every axis, where they are a grid."""
    narrow = np.int32 if np.prod(shape, dtype=np.int64) < 2**31 else np.int64
    if places.ndim == len(shape) and places.size:
        picks: list[Positions] = []
        for axis, coordinate in enumerate(np.unravel_index(places, shape)):
            along = np.moveaxis(coordinate, axis, 0).reshape(places.shape[axis], -1)
            if np.any(along != along[:, :1]):
                return places.astype(narrow)
            picks.append(along[:, 0].astype(narrow))
        return tuple(picks)
    return places.astype(narrow)
