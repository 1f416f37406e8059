"""The edges of one type of a server's graph, which change in batches, with an index for each direction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from upscale_fx.errors import InputError, ServerError
from upscale_fx.running.serving.graph import checks, edge_state
from upscale_fx.running.serving.graph.both_ends import BothEnds
from upscale_fx.running.serving.graph.edge_rows import EdgeRows
from upscale_fx.running.serving.graph.edge_slots import EdgeSlots
from upscale_fx.running.serving.numbers import different
from upscale_fx.running.serving.stores.base import Ids, State


@dataclass(frozen=True)
class Around:
    """A small bipartite graph: the edges of some nodes, for each node in order of insertion.

    Attributes:
        rowptr: ``[len(nodes) + 1]``; the edges of ``nodes[i]`` are those from ``rowptr[i]`` to ``rowptr[i + 1]``.
        others: ``[e]``, the other end of each edge.
        edges: ``[e]``, the ids of the edges.
    """

    rowptr: Ids
    others: Ids
    edges: Ids


class EdgeTable:
    """Edges from ``num_sources`` nodes to ``num_targets`` nodes, with values.

    Every edge has an id, by which it is known as long as it lives; ids ascend in order of insertion and are never used
    again. There may be several edges between two nodes. After an error nothing is changed. One thread may change a
    table while no other reads it.

    Args:
        edge_index: ``[2, E]``, whose edges get the ids 0 to E - 1.
        num_sources: sources are numbered below it.
        num_targets: targets are numbered below it.
        values: ``[E, ...]`` by name; they are copied.

    Raises:
        InputError: an end does not exist, or something has a wrong shape or dtype.
    """

    def __init__(
        self, edge_index: Tensor, num_sources: int, num_targets: int, values: Mapping[str, Tensor] | None = None
    ) -> None:
        self._sizes = checks.size(num_sources, "num_sources"), checks.size(num_targets, "num_targets")
        sources, targets = checks.ends(edge_index, *self._sizes)
        given = dict(values or {})
        checks.specs(given, sources.size)
        copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in given.items()}
        ends = sources.astype(np.int32), targets.astype(np.int32)
        self._slots = EdgeSlots(ends, copies, None, sources.size)
        self._index = BothEnds()

    @property
    def num_sources(self) -> int:
        """Sources are numbered below it."""
        return self._sizes[0]

    @property
    def num_targets(self) -> int:
        """Targets are numbered below it."""
        return self._sizes[1]

    @property
    def num_edges(self) -> int:
        """How many edges there are."""
        return self._slots.living

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, with the room they have for more; of that, the system gives memory when it is used."""
        return self._slots.nbytes + self._index.nbytes

    def add(self, edge_index: Tensor, values: Mapping[str, Tensor] | None = None) -> Ids:
        """Add edges ``[2, k]`` with values ``[k, ...]`` of every name that is stored; return their ids, ascending.

        Raises:
            InputError: an end does not exist, or values are missing, unknown, or of another shape or dtype.
            ServerError: there would be more edges than int32 can number.
        """
        given = values or {}
        ends = checks.ends(edge_index, *self._sizes)
        count = ends[0].size
        checks.values(given, count, self._slots.specs, some=False)
        if self._slots.is_full(count):
            self._make_room(count)
        self._slots.write(ends, given)
        self._index.insert(ends, self._slots.used)
        return self._slots.admit(count)

    def find(self, edge_index: Tensor) -> Ids:
        """Return the ids of all edges between these pairs ``[2, k]``, each once, ascending.

        Raises:
            InputError: this is no integer tensor ``[2, k]``.
            ServerError: there is no edge between a pair; names the first.
        """
        return different(self.match(edge_index)[1])

    def match(self, edge_index: Tensor) -> tuple[Ids, Ids]:
        """Return ``rowptr [k + 1]`` and ids: those of pair i, ascending, lie from ``rowptr[i]`` to ``rowptr[i + 1]``.

        A pair that is there several times has its edges every time.

        Raises:
            InputError: this is no integer tensor ``[2, k]``.
            ServerError: there is no edge between a pair; names the first.
        """
        sources, targets = checks.pairs(edge_index)
        outside = [checks.first_outside(*side) for side in zip((sources, targets), self._sizes, strict=True)]
        known = min((position for position in outside if position is not None), default=sources.size)
        found = self._index.match(sources[:known], targets[:known], self._slots, self._sizes)
        if isinstance(found, int):
            raise _no_edge(sources, targets, found)
        if known < sources.size:
            raise _no_edge(sources, targets, known)
        return found[0], self._slots.ids(found[1])

    def remove(self, ids: Ids) -> None:
        """Remove edges; ids may repeat.

        Raises:
            InputError: this is no flat array of integers.
            ServerError: an edge is not there.
        """
        slots = self._slots.find(np.unique(checks.numbers(ids, "ids")))
        self._slots.alive[slots] = False
        try:
            self._index.erase(slots, self._slots)
        except BaseException:
            self._slots.alive[slots] = True
            raise
        self._slots.living -= slots.size

    def set_values(self, ids: Ids, values: Mapping[str, Tensor]) -> None:
        """Change values ``[len(ids), ...]`` of some or all names; where an id repeats, its last row counts.

        Raises:
            InputError: values are unknown, or of another shape or dtype.
            ServerError: an edge is not there.
        """
        numbers = checks.numbers(ids, "ids")
        checks.values(values, numbers.size, self._slots.specs, some=True)
        different, last = np.unique(numbers[::-1], return_index=True)
        slots = self._slots.find(different)
        rows = torch.from_numpy(numbers.size - 1 - last)
        self._slots.set_values(slots, {name: value[rows] for name, value in values.items()})

    def values_at(self, ids: Ids) -> dict[str, Tensor]:
        """Return the values ``[len(ids), ...]`` of edges by name, copied; ids may repeat.

        Raises:
            ServerError: an edge is not there.
        """
        return self._slots.values(self._slots.find(checks.numbers(ids, "ids")))

    def ends_at(self, ids: Ids) -> Tensor:
        """Return the ends of edges, int64 ``[2, len(ids)]``; ids may repeat.

        Raises:
            ServerError: an edge is not there.
        """
        return self._edge_index(self._slots.find(checks.numbers(ids, "ids")))

    def of_nodes(self, nodes: Ids, end: int) -> Ids:
        """Return the ids of all edges whose source (end 0) or target (end 1) is one of these nodes, ascending.

        Raises:
            InputError: a node does not exist.
        """
        return different(self.around(nodes, end).edges)

    def degrees(self, nodes: Ids, end: int) -> Ids:
        """Return how many edges have each of these nodes as their source (end 0) or target (end 1).

        Raises:
            InputError: a node does not exist.
        """
        numbers = checks.nodes(nodes, self._sizes, end)
        return self._rows(end).count[numbers].astype(np.int64)

    def around(self, nodes: Ids, end: int) -> Around:
        """Return the edges whose source (end 0) or target (end 1) is each of these nodes, in order of insertion.

        Raises:
            InputError: a node does not exist.
        """
        numbers = checks.nodes(nodes, self._sizes, end)
        rowptr, others, slots = self._rows(end).gather(numbers, self._slots.ends[1 - end])
        return Around(rowptr, others, self._slots.ids(slots))

    def neighbours(self, nodes: Ids, end: int) -> Ids:
        """Return the other ends of the edges of these sources (end 0) or targets (end 1), each once, ascending.

        Raises:
            InputError: a node does not exist.
        """
        return different(self.around(nodes, end).others)

    def grow(self, num_sources: int, num_targets: int) -> None:
        """Let nodes up to these numbers have edges.

        Raises:
            InputError: there are more already.
        """
        sizes = checks.size(num_sources, "num_sources"), checks.size(num_targets, "num_targets")
        for name, new, old in zip(("num_sources", "num_targets"), sizes, self._sizes, strict=True):
            if new < old:
                raise InputError(f"{name} is {new}, but there are {old} already: node numbers are never given up")
        self._index.grow(sizes)
        self._sizes = sizes

    def edge_index(self) -> Tensor:
        """Return all edges in order of insertion, int64 ``[2, E]``."""
        return self._edge_index(self._slots.slots())

    def values(self) -> dict[str, Tensor]:
        """Return the values of all edges in order of insertion, ``[E, ...]`` by name, copied."""
        return self._slots.values(self._slots.slots())

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return copies of all that :meth:`from_state` needs; the index is built again."""
        return edge_state.arrays(self._slots, self._sizes)

    @classmethod
    def from_state(cls, state: State) -> EdgeTable:
        """Return the table whose state this is; ids survive.

        Raises:
            InputError: the arrays do not fit each other.
        """
        slots, sizes = edge_state.restored(state)
        table = cls(torch.empty((2, 0), dtype=torch.int64), *sizes)
        table._slots = slots
        return table

    def _make_room(self, count: int) -> None:
        """Let so many edges be written; ids, and what the index holds, stay the same."""
        if self._slots.is_sparse():
            slots, number = self._slots.packed()
            slots.enlarge(count)
            self._slots = slots
            self._index.renumber(number)  # if this fails, it is built from the new slots
        else:
            self._slots.enlarge(count)

    def _rows(self, end: int) -> EdgeRows:
        return self._index.of(end, self._slots, self._sizes)

    def _edge_index(self, slots: Ids) -> Tensor:
        return torch.from_numpy(np.stack([end[slots] for end in self._slots.ends]).astype(np.int64))


def _no_edge(sources: Ids, targets: Ids, position: int) -> ServerError:
    return ServerError(
        f"there is no edge from node {sources[position]} to node {targets[position]} (pair {position} of "
        f"{sources.size}): nothing was changed. Leave it out, or add it first"
    )
