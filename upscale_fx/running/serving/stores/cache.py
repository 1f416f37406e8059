"""A bounded cache of blocks in memory: a ring, in which new blocks take the place of the oldest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from upscale_fx.running.serving.stores.base import Flags, Ids
from upscale_fx.running.serving.stores.blocks import Blocks


class BlockCache:
    """At most ``size`` blocks, by their number."""

    def __init__(self, dtype: np.dtype[Any], size: int) -> None:
        self._blocks: Blocks = np.empty(size, dtype=dtype)
        self._owners = np.full(size, -1, dtype=np.int64)
        self._places = np.full(0, -1, dtype=np.int32)
        self._next = 0

    def grow(self, blocks: int) -> None:
        """Let block numbers go up to ``blocks``."""
        more = np.full(max(0, blocks - len(self._places)), -1, dtype=np.int32)
        self._places = np.concatenate([self._places, more])

    def has(self, numbers: Ids) -> Flags:
        """Tell which blocks are here."""
        return self._places[numbers] >= 0

    def take(self, numbers: Ids) -> Blocks:
        """Return blocks that are here."""
        return self._blocks[self._places[numbers]]

    def rows(self, numbers: Ids, within: Ids) -> NDArray[np.uint8] | None:
        """Return the bytes of one row per block number, ``[len(numbers), row bytes]``; None if a block is not here."""
        places = self._places[numbers]
        if len(places) and places.min() < 0:
            return None
        rows: NDArray[np.uint8] = self._blocks["rows"][places, within]
        return rows

    def put(self, numbers: Ids, blocks: Blocks) -> None:
        """Keep blocks, of different numbers; all of them or, if they are too many, none."""
        self.drop(numbers)
        size = len(self._owners)
        if not len(numbers) or len(numbers) > size // 2:
            return
        places = (self._next + np.arange(len(numbers))) % size
        old = self._owners[places]
        self._places[old[old >= 0]] = -1
        self._owners[places] = numbers
        self._places[numbers] = places
        self._blocks[places] = blocks
        self._next = (self._next + len(numbers)) % size

    def drop(self, numbers: Ids) -> None:
        """Let go of blocks, if they are here."""
        places = self._places[numbers]
        self._owners[places[places >= 0]] = -1
        self._places[numbers] = -1

    def clear(self) -> None:
        """Let go of all blocks."""
        self._owners[:] = -1
        self._places[:] = -1
