"""What a change touches: the rows of every stage that may differ afterwards, and the rows that an answer needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from upscale_fx.analysis.stages.demands import Space
from upscale_fx.passes.cut_stages import Stage
from upscale_fx.running.serving.graph.edge_table import EdgeTable
from upscale_fx.running.serving.numbers import union
from upscale_fx.running.serving.stores.base import Ids

NONE: Ids = np.zeros(0, np.int64)


@dataclass
class Touched:
    """What a change does to the graph.

    Attributes:
        rows: by path of an argument or name of a value, the nodes whose row differs.
        edges: by path and end, the nodes of which an edge, or a value of one, differs.
        everything: names of values for the whole graph that differ.
    """

    rows: dict[str, Ids] = field(default_factory=dict)
    edges: dict[tuple[str, int], Ids] = field(default_factory=dict)
    everything: frozenset[str] = frozenset()

    def add_rows(self, path: str, ids: Ids) -> None:
        """Note rows that differ."""
        self.rows[path] = union([self.rows.get(path, NONE), ids])

    def add_edges(self, path: str, ends: tuple[Ids, Ids]) -> None:
        """Note edges that differ."""
        for end, ids in enumerate(ends):
            self.edges[path, end] = union([self.edges.get((path, end), NONE), ids])


def dirty_rows(
    stage: Stage, touched: Touched, changed: Mapping[str, Ids], tables: Mapping[str, EdgeTable], count: int
) -> Ids:
    """Return the targets of a stage whose rows may differ, ascending.

    Args:
        stage: the stage.
        touched: the change.
        changed: by name of a stored value, the rows of it that may differ.
        tables: the edges before or after the change: those that it adds or removes are in ``touched``.
        count: how many nodes there are of the stage's targets.
    """
    parts: list[Ids] = []
    for operand in stage.operands:
        if operand.kind == "structure" and operand.name in touched.everything:
            return np.arange(count)
        if operand.kind == "rows":
            rows = changed.get(operand.name, touched.rows.get(operand.name, NONE))
            if rows.size:
                parts.append(rows if operand.space.where == "own" else reading(stage, operand.space, rows, tables))
    parts += [touched.edges.get((relation.of, relation.end), NONE) for relation in stage.relations]
    return union(parts) if parts else NONE


def reading(stage: Stage, space: Space, rows: Ids, tables: Mapping[str, EdgeTable]) -> Ids:
    """Return the targets that read these rows as rows of neighbours; targets may be among these."""
    table, other = tables[space.of], 1 - space.end
    known = table.num_sources if other == 0 else table.num_targets
    targets = table.neighbours(rows[rows < known], other)
    return union([targets, rows]) if space in stage.with_targets else targets
