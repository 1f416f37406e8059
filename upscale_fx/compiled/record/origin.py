"""The origin of a parameter's entries: their positions before channels were removed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Origin:
    """The positions that a parameter's entries had in the original parameter.

    Attributes:
        name: the original parameter.
        shape: its shape.
        picks: None if all entries are in place; per axis, the indices that were kept, in order, if the entries form
            such a grid (almost always); otherwise the flat position of every entry, in the present shape.
    """

    name: str
    shape: tuple[int, ...]
    picks: tuple[Positions, ...] | Positions | None = None

    @property
    def present_shape(self) -> tuple[int, ...]:
        """The shape that the parameter has now."""
        if self.picks is None:
            return self.shape
        return tuple(map(len, self.picks)) if isinstance(self.picks, tuple) else self.picks.shape

    @property
    def places(self) -> Positions:
        """The flat position of every entry in the original parameter, in the present shape."""
        if isinstance(self.picks, np.ndarray):
            return self.picks.astype(np.int64)
        whole = np.arange(int(np.prod(self.shape, dtype=np.int64)), dtype=np.int64).reshape(self.shape)
        return whole if self.picks is None else whole[np.ix_(*self.picks)]

    def cut(self, layout: Positions) -> Origin:
        """Return the origin of the entries at these flat positions of the parameter, in the shape of ``layout``."""
        places = self.places.reshape(-1)[layout]
        whole = places.shape == self.shape and np.array_equal(places.reshape(-1), np.arange(places.size))
        return Origin(self.name, self.shape, None if whole else _compressed(places, self.shape))


def _compressed(places: Positions, shape: tuple[int, ...]) -> tuple[Positions, ...] | Positions:
    """Return positions as indices along every axis if they form a grid, else as they are."""
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
