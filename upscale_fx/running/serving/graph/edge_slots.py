"""All edges in order of insertion: their ends, values and ids.

An edge has a *slot*, its place in the arrays, and an *id*, its number for ever. Both ascend in order of insertion.
Slots are reused: when the arrays are full and many edges are gone, the others move together. Ids are not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from upscale_fx.errors import InputError, ServerError
from upscale_fx.running.serving.graph.checks import LIMIT, ValueSpec
from upscale_fx.running.serving.graph.edge_rows import Int32, enlarged
from upscale_fx.running.serving.stores.base import Flags, Ids

_FEWEST = 16


class EdgeSlots:
    """Arrays by slot.

    Attributes:
        ends: sources and targets.
        alive: whether the edge in a slot is still there; false for slots from ``used`` on.
        used: how many slots were given out.
        living: how many of them are alive.
        next_id: of the next edge.
    """

    def __init__(self, ends: tuple[Int32, Int32], values: Mapping[str, Tensor], ids: Ids | None, next_id: int) -> None:
        """Take arrays of living edges; ``ids`` ascend, None means that ids are slots."""
        self.ends = ends
        self.alive: Flags = np.ones(ends[0].size, dtype=bool)
        self.used = self.living = ends[0].size
        self.next_id = next_id
        self._values = dict(values)
        self._ids = ids

    @property
    def specs(self) -> dict[str, ValueSpec]:
        """What the values of each name are."""
        return {name: ValueSpec(tuple(value.shape[1:]), value.dtype) for name, value in self._values.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        ids = 0 if self._ids is None else self._ids.nbytes
        values = sum(value.nbytes for value in self._values.values())
        return sum(array.nbytes for array in self.ends) + self.alive.nbytes + ids + values

    def is_full(self, count: int) -> bool:
        """Whether there are no slots for so many edges more."""
        return self.used + count > self.alive.size

    def is_sparse(self) -> bool:
        """Whether a third of the slots hold edges that are gone: moving the others is paid by as many that come."""
        return 0 < self.used <= 3 * (self.used - self.living)

    def enlarge(self, count: int) -> None:
        """Make room for so many edges more; memory doubles, so that edges may come one by one.

        Raises:
            ServerError: more edges than int32 can number.
        """
        size = max(2 * self.used, self.used + count, _FEWEST)
        if self.used + count > LIMIT:
            raise ServerError(f"a server holds at most {LIMIT} edges of one type")
        size = min(size, LIMIT)
        ends = enlarged(self.ends[0], self.used, size), enlarged(self.ends[1], self.used, size)
        alive = enlarged(self.alive, self.used, size)
        ids = None if self._ids is None else enlarged(self._ids, self.used, size)
        values = {}
        for name, value in self._values.items():
            values[name] = value.new_empty((size, *value.shape[1:]))
            values[name][: self.used] = value[: self.used]
        self.ends, self.alive, self._ids, self._values = ends, alive, ids, values

    def packed(self) -> tuple[EdgeSlots, Int32]:
        """Return the living edges, and for each old slot its new number; of those that are gone any number."""
        slots = self.slots()
        ends = self.ends[0][slots], self.ends[1][slots]
        number = np.cumsum(self.alive[: self.used], dtype=np.int32) - np.int32(1)
        return EdgeSlots(ends, self.values(slots), self.ids(slots), self.next_id), number

    def numbered(self, ids: Ids, next_id: int) -> EdgeSlots:
        """Return the same edges under other ids; all of them must be alive.

        Raises:
            InputError: ids do not ascend, or not below ``next_id``, or there is not one for each edge.
        """
        bounds = np.concatenate([[-1], ids, [next_id]])
        if ids.size != self.used or not np.all(bounds[:-1] < bounds[1:]):
            raise InputError(f"ids must be {self.used} different numbers below {next_id}, ascending")
        plain = next_id == ids.size  # then they are 0, 1, ...
        return EdgeSlots(self.ends, self._values, None if plain else ids, next_id)

    def write(self, ends: tuple[Ids, Ids], values: Mapping[str, Tensor]) -> None:
        """Write edges behind all others, where they do not count until :meth:`admit`."""
        new = slice(self.used, self.used + ends[0].size)
        self.ends[0][new], self.ends[1][new] = ends
        for name, value in values.items():
            self._values[name][new] = value.detach()

    def admit(self, count: int) -> Ids:
        """Let edges that were written count; return their ids."""
        new = slice(self.used, self.used + count)
        ids = np.arange(self.next_id, self.next_id + count)
        if self._ids is not None:
            self._ids[new] = ids
        self.alive[new] = True
        self.used, self.living, self.next_id = self.used + count, self.living + count, self.next_id + count
        return ids

    def find(self, ids: Ids) -> Ids:
        """Return the slots of edges.

        Raises:
            ServerError: an edge was never added, or is removed.
        """
        if self._ids is None:
            inside = (ids >= 0) & (ids < self.used)
            slots = ids
        else:
            slots = np.searchsorted(self._ids[: self.used], ids)
            inside = slots < self.used
            inside[inside] = self._ids[slots[inside]] == ids[inside]
        known = inside.copy()
        known[inside] = self.alive[slots[inside]]
        if not known.all():
            missing = ids[np.argmin(known)]
            state = "was removed" if 0 <= missing < self.next_id else "was never added"
            raise ServerError(f"there is no edge with id {missing}: it {state}")
        return slots

    def slots(self) -> Ids:
        """Return the slots of all living edges."""
        return np.flatnonzero(self.alive[: self.used])

    def ids(self, slots: Ids) -> Ids:
        """Return the ids of edges in slots."""
        return slots if self._ids is None else self._ids[slots]

    def values(self, slots: Ids) -> dict[str, Tensor]:
        """Return copies of the values of edges in slots."""
        if not self._values:
            return {}
        rows = torch.from_numpy(slots)
        return {name: value.index_select(0, rows) for name, value in self._values.items()}

    def set_values(self, slots: Ids, values: Mapping[str, Tensor]) -> None:
        """Change the values of edges in slots, which are different from each other."""
        rows = torch.from_numpy(slots)
        for name, value in values.items():
            self._values[name].index_copy_(0, rows, value.detach().to("cpu"))
