"""Run one stage for some nodes: their edges become a small graph with numbers of its own.

Rows of targets come first, padded with rows that count for nothing: a product with weights gives the same bits for a
row whatever rows stand beside it only from 64 rows on (measured for float32 with oneDNN and MKL on x86).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upscale_fx.analysis.stages.demands import Space
from upscale_fx.passes.cut_stages import Operand, Stage
from upscale_fx.running.serving.graph.edge_table import Around, EdgeTable
from upscale_fx.running.serving.numbers import different, within
from upscale_fx.running.serving.stores.base import Ids

#: The fewest rows of a product with weights.
LEAST_ROWS = 64


@dataclass
class Neighbours:
    """The rows that a relation of a stage reads at the other ends of its edges.

    Attributes:
        around: the edges of the targets.
        ids: the rows to read, padded: where they are joined, first those of the targets.
        places: per edge, the place of its other end in ``ids``.
        needed: the different nodes that must be there.
    """

    around: Around
    ids: Ids
    places: Ids
    needed: Ids


@dataclass
class Local:
    """The targets of a stage and all that is around them.

    Attributes:
        targets: their numbers, each once.
        rows: how many rows targets have with padding.
        padded: numbers of the rows of targets; padding repeats the first.
        far: by space of neighbours.
    """

    targets: Ids
    rows: int
    padded: Ids
    far: dict[Space, Neighbours] = field(default_factory=dict)

    def edges_by_target(self) -> Ids:
        """How many edges are read for each target."""
        total = np.zeros(self.targets.size, np.int64)
        for neighbours in self.far.values():
            total += np.diff(neighbours.around.rowptr)
        return total

    @property
    def edges(self) -> int:
        """How many edges are read."""
        return sum(neighbours.around.others.size for neighbours in self.far.values())


class Scratch:
    """Places by node number, kept between calls so that a small answer costs nothing per node of the graph."""

    def __init__(self) -> None:
        self._places = np.full(0, -1, np.int64)

    def place(self, count: int, start: Ids, others: Ids, first: int) -> tuple[Ids, Ids]:
        """Number ``others``: those in ``start`` by their place there, all further ones from ``first`` on, ascending.

        Returns:
            The further ones, and the place of each of ``others``.
        """
        if self._places.size < count:
            self._places = np.full(max(count, 2 * self._places.size), -1, np.int64)
        places = self._places
        places[start] = np.arange(start.size)
        more = different(others[places[others] < 0])
        places[more] = np.arange(first, first + more.size)
        found = places[others]
        places[start] = -1
        places[more] = -1
        return more, found


def look_around(
    stage: Stage, targets: Ids, tables: Mapping[str, EdgeTable], scratch: Scratch, chosen: Callable[[Around], Around]
) -> Local:
    """Find the edges of the targets of a stage, and the rows at their other ends."""
    rows = max(LEAST_ROWS, targets.size + stage.pads_edges)
    padded = np.full(rows, targets[0], np.int64)
    padded[: targets.size] = targets
    local = Local(targets, rows, padded)
    for relation in stage.relations:
        table = tables[relation.of]
        around = chosen(table.around(targets, relation.end))
        space = Space("far", relation.of, relation.end)
        count = table.num_targets if relation.end == 0 else table.num_sources
        joined = space in stage.joined
        start = targets if joined else targets[:0]
        more, places = scratch.place(count, start, around.others, rows if joined else 0)
        if space in stage.with_targets:
            ids, needed = np.concatenate([padded, more]), np.concatenate([targets, more])
        elif joined:  # targets have places, but only those that are neighbours are read
            needed = different(around.others)
            ids = np.concatenate([padded, more])
            ids[:rows] = needed[0] if needed.size else 0
            among = within(targets, needed)
            ids[: targets.size][among] = targets[among]
        else:
            ids, needed = more, more
            if more.size < LEAST_ROWS:
                ids = np.full(LEAST_ROWS, more[0] if more.size else 0, np.int64)
                ids[: more.size] = more
        local.far[space] = Neighbours(around, ids, places, needed)
    return local


def run_stage(
    stage: Stage,
    local: Local,
    rows: Callable[[str, Ids, bool], Tensor],
    edge_values: Callable[[str, str, Ids], Tensor],
    others: Callable[[Operand], Any],
) -> Sequence[Tensor]:
    """Compute the values of a stage at its targets.

    Args:
        stage: the stage.
        local: its targets and what is around them.
        rows: returns rows of a stored value or argument, by name; the last says whether none of them is needed.
        edge_values: returns rows of an argument, by the path of its edges and its own.
        others: returns values without rows.

    Returns:
        Per value ``[len(targets), ...]``.
    """
    given: list[Any] = []
    for operand in stage.operands:
        space = operand.space
        if operand.kind == "rows":
            if space.where == "own":
                given.append(rows(operand.name, local.padded, False))
            else:
                near = local.far[space]
                given.append(rows(operand.name, near.ids, not near.needed.size))
        elif operand.kind == "count":
            given.append(local.rows if space.where == "own" else local.far[space].ids.size)
        elif operand.kind == "edges":
            given.append(_edge_index(stage, local, space))
        elif operand.kind == "edge_values":
            near = local.far[Space("far", space.of, space.end)]
            value = edge_values(space.of, operand.name, near.around.edges)
            missing = LEAST_ROWS - value.size(0) if stage.pads_edges else 0
            given.append(value if missing <= 0 else torch.cat([value, value.new_zeros((missing, *value.shape[1:]))]))
        else:
            given.append(others(operand))
    with torch.no_grad():
        results = stage.module(*given)
    return [result[: local.targets.size] for result in results]


def _edge_index(stage: Stage, local: Local, relation: Space) -> Tensor:
    """The edges of the targets with local numbers, ``[2, E]``."""
    near = local.far[Space("far", relation.of, relation.end)]
    count = near.around.others.size
    total = max(count, LEAST_ROWS) if stage.pads_edges else count
    pair = np.empty((2, total), np.int64)
    pair[relation.end, :count] = np.repeat(np.arange(local.targets.size), np.diff(near.around.rowptr))
    pair[1 - relation.end, :count] = near.places
    if total > count:  # edges that end in a row of padding
        pair[relation.end, count:] = local.rows - 1
        pair[1 - relation.end, count:] = 0
    return torch.from_numpy(pair)
