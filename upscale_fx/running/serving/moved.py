"""How one graph differs from another: rows of arguments, and nodes whose edges, their order or their values differ."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from upscale_fx.running.serving.freshness import Touched
from upscale_fx.running.serving.graph.edge_table import EdgeTable
from upscale_fx.running.serving.numbers import union
from upscale_fx.running.serving.rows import NodeRows
from upscale_fx.running.serving.stores.base import Flags, Ids


def differences(
    nodes: tuple[Mapping[str, NodeRows], Mapping[str, NodeRows]],
    edges: tuple[Mapping[str, EdgeTable], Mapping[str, EdgeTable]],
) -> Touched | None:
    """Return what differs between two graphs; None if the second has fewer nodes, so that numbers may mean others."""
    touched = Touched()
    for symbol, rows in nodes[0].items():
        other = nodes[1][symbol]
        if other.count < rows.count:
            return None
        common = np.arange(rows.count)
        new = np.arange(rows.count, other.count)
        gone = rows.alive(common) != other.alive(common)
        for path in rows.paths():
            differs = differing(rows.all_rows(path), other.all_rows(path)[: rows.count]) | gone
            touched.add_rows(path, np.concatenate([common[differs], new]))
    for path, table in edges[0].items():
        touched.add_edges(
            path, (_differing_nodes(table, edges[1][path], 0), _differing_nodes(table, edges[1][path], 1))
        )
    return touched


def _differing_nodes(table: EdgeTable, other: EdgeTable, end: int) -> Ids:
    """Return the nodes at one end whose edges differ, in order or value."""
    count = table.num_sources if end == 0 else table.num_targets
    now = other.num_sources if end == 0 else other.num_targets
    common = np.arange(count)
    unequal = table.degrees(common, end) != other.degrees(common, end)
    alike = common[~unequal]
    first, second = table.around(alike, end), other.around(alike, end)
    differs = first.others != second.others
    values, others = table.values_at(first.edges), other.values_at(second.edges)
    for name, value in values.items():
        differs |= differing(value, others[name])
    row = np.repeat(np.arange(alike.size), np.diff(first.rowptr))
    among = alike[np.bincount(row, differs, alike.size) > 0]
    return np.concatenate([union([common[unequal], among]), np.arange(count, now)])


def differing(rows: Tensor, others: Tensor) -> Flags:
    """Tell which rows of two tensors differ anywhere; NaN differs from itself."""
    unequal = torch.ne(rows, others)
    return (unequal if unequal.dim() == 1 else unequal.flatten(1).any(1)).numpy()
