"""What a change does to stored rows: it forgets those that may differ, or computes them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upscale_fx.analysis.stages.run import run_node
from upscale_fx.running.serving.computing import Computation
from upscale_fx.running.serving.differences import Differences, Partial
from upscale_fx.running.serving.freshness import NONE, Touched, dirty_rows
from upscale_fx.running.serving.moved import differing
from upscale_fx.running.serving.numbers import union, within
from upscale_fx.running.serving.stores.base import Ids


@dataclass(frozen=True)
class HeldRows:
    """Rows of a stage that are held: their nodes, ascending, the values by name, and how many nodes there are."""

    ids: Ids
    rows: Mapping[str, Tensor]
    count: int


def dirty(computation: Computation, touched: Touched) -> dict[str, Ids]:
    """Return by stage the rows that may differ after a change; the graph may be that before it or after it."""
    changed: dict[str, Ids] = {}
    found: dict[str, Ids] = {}
    for stage in computation.stored:
        rows = dirty_rows(stage, touched, changed, computation.graph.edges, computation.graph.nodes[stage.of].count)
        found[stage.name] = rows
        changed |= {value.name: rows for value in stage.values}
    return found


def known(computation: Computation, rows: Mapping[str, Ids]) -> dict[str, Ids]:
    """Return rows by stage without those of nodes that the tables do not have yet."""
    nodes = computation.graph.nodes
    return {stage.name: rows[stage.name][rows[stage.name] < nodes[stage.of].count] for stage in computation.stored}


def by_table(computation: Computation, rows: Mapping[str, Ids]) -> dict[str, Ids]:
    """Return rows by table instead of by stage."""
    return {value.name: rows[stage.name] for stage in computation.stored for value in stage.values}


def forget(computation: Computation, rows: Mapping[str, Ids]) -> None:
    """Forget rows of stages."""
    for stage in computation.stored:
        ids = rows[stage.name]
        if ids.size:
            counts = [computation.store.forget(value.name, ids) for value in stage.values]
            computation.stats.count_forgotten(stage.name, counts[0])


def held_rows(computation: Computation, rows: Mapping[str, Ids]) -> dict[str, HeldRows]:
    """Return by stage the rows that are held of those given."""
    before = {}
    for stage in computation.stored:
        ids = rows[stage.name]
        ids = ids[computation.held(stage, ids)]
        values = {value.name: computation.store.read(value.name, ids) for value in stage.values}
        before[stage.name] = HeldRows(ids, values, computation.graph.nodes[stage.of].count)
    return before


def refresh(
    computation: Computation,
    touched: Touched,
    before: Mapping[str, HeldRows],
    differences: Differences | None = None,
    partials: Mapping[str, Partial] | None = None,
) -> None:
    """Compute rows again that were held before a change, stage by stage; stop where the new row equals the old.

    Args:
        computation: with the graph after the change, and without the rows that may differ.
        touched: the change.
        before: by stage, those of these rows that were held, with their values.
        differences: takes differences in sums over neighbours.
        partials: by stage, what it found before the change.
    """
    store, changed = computation.store, dict[str, Ids]()
    for stage in computation.stored:
        nodes, old = computation.graph.nodes[stage.of], before[stage.name]
        rows = dirty_rows(stage, touched, changed, computation.graph.edges, nodes.count)
        same = ~within(old.ids, rows) & nodes.alive(old.ids)
        for value in stage.values:
            store.write(value.name, old.ids[same], old.rows[value.name][torch.from_numpy(same)])
        again = rows[within(rows, old.ids) | (rows >= old.count)]
        again = again[nodes.alive(again)]
        with computation.session():
            done = NONE
            if differences is not None and stage.reduces:
                own = [changed.get(name, touched.rows.get(name, NONE)) for name in stage.own_reads]
                partial = (partials or {}).get(stage.name)
                done = differences.after(stage, partial, again, union([*own, NONE]), old.rows, old.ids)
            computation.compute({stage.name: again[~within(again, done)]})
        differs = ~within(rows, old.ids)  # what is not known from before counts as changed
        both = again[within(again, old.ids)]
        both = both[computation.held(stage, both)]
        place = torch.from_numpy(np.searchsorted(old.ids, both))
        unequal = np.zeros(both.size, dtype=bool)
        for value in stage.values if both.size else ():
            unequal |= differing(store.read(value.name, both), old.rows[value.name][place])
        differs |= within(rows, both[unequal]) | (within(rows, old.ids) & ~within(rows, both))
        changed |= {value.name: rows[differs] for value in stage.values}


def refresh_structure(computation: Computation) -> frozenset[str]:
    """Compute values for the whole graph again; return the names of those that differ."""
    if not computation.stages.structure:
        return frozenset()
    old = computation.structure
    computation.structure = new = _structure_now(computation, computation.graph.by_path())
    return frozenset(name for name, value in new.items() if name not in old or not _same(value, old[name]))


def _structure_now(computation: Computation, given: Mapping[str, Any]) -> dict[str, Any]:
    kinds = computation.stages.kinds
    wanted = {node for node in kinds.graph.nodes if node.name in computation.stages.structure}
    needed, waiting = set(wanted), list(wanted)
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in needed:
                needed.add(source)
                waiting.append(source)
    values: dict[Any, tuple[Any]] = {}
    with torch.no_grad():
        for node in kinds.graph.nodes:
            if node in needed:
                is_argument = node.op == "placeholder"
                values[node] = (given[str(node.target)] if is_argument else run_node(computation.gm, node, values, 0),)
    return {node.name: values[node][0] for node in wanted}


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, Tensor):
        return isinstance(other, Tensor) and value.shape == other.shape and bool(torch.equal(value, other))
    return bool(value == other)
