"""The edges by source and by target: two indexes, each built when it is first asked for and kept up to date then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from upscale_fx.running.serving.graph import loops
from upscale_fx.running.serving.graph.edge_rows import EdgeRows, Int32
from upscale_fx.running.serving.graph.edge_slots import EdgeSlots
from upscale_fx.running.serving.stores.base import Ids


class BothEnds:
    """Rows of slots by source (end 0) and by target (end 1)."""

    def __init__(self) -> None:
        self._rows: list[EdgeRows | None] = [None, None]

    @property
    def nbytes(self) -> int:
        """Bytes of both indexes, as far as they are built."""
        return sum(rows.nbytes for rows in self._rows if rows is not None)

    def of(self, end: int, slots: EdgeSlots, sizes: tuple[int, int]) -> EdgeRows:
        """Return the rows of one end, built at the first call."""
        rows = self._rows[end]
        if rows is None:
            rows = EdgeRows(slots.ends[end][: slots.used], slots.alive[: slots.used], sizes[end])
            self._rows[end] = rows
        return rows

    def insert(self, ends: tuple[Ids, Ids], first: int) -> None:
        """Append slots ``first, first + 1, ...`` to the rows of their ends."""
        with self._built_again_after_errors():
            for rows, nodes in zip(self._rows, ends, strict=True):
                if rows is not None:
                    rows.insert(nodes, first)

    def erase(self, dead: Ids, slots: EdgeSlots) -> None:
        """Take out slots, ascending, that are no longer alive."""
        with self._built_again_after_errors():
            for rows, ends in zip(self._rows, slots.ends, strict=True):
                if rows is not None:
                    rows.erase(dead, ends, slots.alive)

    def grow(self, sizes: tuple[int, int]) -> None:
        """Take nodes below these numbers."""
        with self._built_again_after_errors():
            for rows, count in zip(self._rows, sizes, strict=True):
                if rows is not None:
                    rows.grow(count)

    def renumber(self, number: Int32) -> None:
        """Put ``number[slot]`` instead of each slot."""
        with self._built_again_after_errors():
            for rows in self._rows:
                if rows is not None:
                    rows.renumber(number)

    def match(self, sources: Ids, targets: Ids, slots: EdgeSlots, sizes: tuple[int, int]) -> tuple[Ids, Ids] | int:
        """Return ``rowptr [k + 1]`` and the slots of the edges of each pair; the first pair that has none if one has.

        All ends must exist.
        """
        by_source, by_target = self.of(0, slots, sizes), self.of(1, slots, sizes)
        rowptr = np.zeros(sources.size + 1, np.int64)
        found = np.empty(2 * sources.size + 16, np.int64)
        while True:
            total = loops.run(
                "match", sources, targets, by_source.start, by_source.count, by_source.pool,
                by_target.start, by_target.count, by_target.pool, *slots.ends, rowptr, found,
            )  # fmt: skip
            if total < 0:
                return -1 - total
            if total <= found.size:
                return rowptr, found[:total]
            found = np.empty(total, np.int64)

    @contextmanager
    def _built_again_after_errors(self) -> Iterator[None]:
        """Drop the indexes after an error, for example of memory, which may have changed a part of them."""
        try:
            yield
        except BaseException:
            self._rows = [None, None]
            raise
