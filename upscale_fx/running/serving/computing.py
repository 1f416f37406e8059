"""Rows of stages, computed where they are missing: what an answer needs is found from the outputs back to the inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upscale_fx.analysis.stages.kinds import run_node
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.errors import ServerError
from upscale_fx.passes.cut_stages import Operand, Stage, Stages
from upscale_fx.running.serving.freshness import NONE, Touched, dirty_rows
from upscale_fx.running.serving.graph.edge_table import Around
from upscale_fx.running.serving.locally import Local, Scratch, look_around, run_stage
from upscale_fx.running.serving.numbers import union
from upscale_fx.running.serving.served import ServedGraph
from upscale_fx.running.serving.statistics import Stats
from upscale_fx.running.serving.stores.base import Flags, Ids, Store, TableSpec
from upscale_fx.running.serving.threads import few_threads

#: The most targets, and about the most edges, that are computed at once.
_MOST_TARGETS, _MOST_EDGES = 1 << 15, 1 << 20


@dataclass(frozen=True)
class HeldRows:
    """Rows of a stage that are held: their nodes, ascending, the values by name, and how many nodes there are."""

    ids: Ids
    rows: Mapping[str, Tensor]
    count: int


class Computation:
    """Stages of a model over a graph, with the rows that a store holds."""

    def __init__(self, gm: CompiledGNN, stages: Stages, graph: ServedGraph, store: Store, stats: Stats) -> None:
        self.gm, self.stages, self.graph, self.store, self.stats = gm, stages, graph, store, stats
        self.stored = [stage for stage in stages.stages if not stage.is_output]
        self.outputs = [stage for stage in stages.stages if stage.is_output]
        self.by_value = {value.name: stage for stage in self.stored for value in stage.values}
        self.scratch = Scratch()
        self.structure: dict[str, Any] = {}

    def tables(self) -> dict[str, TableSpec]:
        """The tables that the store needs: one per stored value."""
        return {
            value.name: TableSpec(value.shape, value.dtype, self.graph.nodes[stage.of].count)
            for stage in self.stored
            for value in stage.values
        }

    def held(self, stage: Stage, ids: Ids) -> Any:
        """Tell which rows of a stage are held; a stage's values are written and forgotten together."""
        return self.store.held(stage.values[0].name, ids)

    # Answers ---------------------------------------------------------------------------------------------------------

    def answer(self, stage: Stage, ids: Ids) -> Sequence[Tensor]:
        """Return the values of an output stage at different nodes."""
        parts = []
        for some in chunks(ids):
            local = self.look(stage, some)
            needs = self.needs(stage, local)
            missing = self.compute({name: rows for name, rows in needs.items()})
            self.stats.hits += 0 if missing else 1
            parts.append(self.run(stage, local))
        return parts[0] if len(parts) == 1 else [torch.cat(rows) for rows in zip(*parts, strict=True)]

    def look(self, stage: Stage, targets: Ids) -> Local:
        """Find what is around targets."""
        return look_around(stage, targets, self.graph.edges, self.scratch, _all_edges)

    def needs(self, stage: Stage, local: Local) -> dict[str, Ids]:
        """Return the rows that a stage reads, by the name of the stage that computes them."""
        needed: dict[str, list[Ids]] = {}
        for operand in stage.operands:
            source = self.by_value.get(operand.name) if operand.kind == "rows" else None
            if source is not None:
                own = operand.space.where == "own"
                needed.setdefault(source.name, []).append(local.targets if own else local.far[operand.space].needed)
        return {name: rows[0] if len(rows) == 1 else union(rows) for name, rows in needed.items()}

    def compute(self, wanted: Mapping[str, Ids]) -> int:
        """Compute the rows of stages, by name, that are not held, and all that they need; return how many."""
        needed = {name: [ids] for name, ids in wanted.items()}
        missing: dict[str, Ids] = {}
        for stage in reversed(self.stored):
            if stage.name not in needed:
                continue
            ids = union(needed[stage.name])
            ids = ids[~self.held(stage, ids)]
            if not ids.size:
                continue
            missing[stage.name] = ids
            for some in chunks(ids):
                for name, rows in self.needs(stage, self.look(stage, some)).items():
                    needed.setdefault(name, []).append(rows)
        for stage in self.stored:
            if stage.name in missing:
                self.fill(stage, missing[stage.name])
        return sum(ids.size for ids in missing.values())

    def fill(self, stage: Stage, ids: Ids) -> None:
        """Compute rows of a stage, all of whose reads are held, and write them."""
        for some in chunks(ids):
            for value, rows in zip(stage.values, self.run(stage, self.look(stage, some)), strict=True):
                self.store.write(value.name, some, rows)

    def run(self, stage: Stage, local: Local) -> Sequence[Tensor]:
        """Compute the values of a stage at its targets."""
        self.stats.count_stage(stage, local)
        with few_threads(stage.macs_per_node * local.targets.size + stage.macs_per_edge * local.edges):
            return run_stage(stage, local, self._rows(stage), self._edge_values, self._other)

    def _rows(self, stage: Stage) -> Any:
        def rows(name: str, ids: Ids, nothing: bool) -> Tensor:
            source = self.by_value.get(name)
            if source is None:
                symbol = next(symbol for symbol, kind in self.graph.naming.nodes.items() if name in kind.inputs)
                return self.graph.nodes[symbol].read(name, ids)
            if nothing:
                value = next(value for value in source.values if value.name == name)
                return torch.zeros((ids.size, *value.shape), dtype=value.dtype)
            self.stats.rows_read[source.name] = self.stats.rows_read.get(source.name, 0) + ids.size
            return self.store.read(name, ids)

        return rows

    def _edge_values(self, path: str, name: str, ids: Ids) -> Tensor:
        kind = self.graph.naming.edges[path]
        short = next(short for short, (at, _) in kind.values.items() if at == name)
        return self.graph.edges[path].values_at(ids)[short]

    def _other(self, operand: Operand) -> Any:
        return self.structure[operand.name] if operand.kind == "structure" else self.graph.arguments[operand.name]

    # Changes ---------------------------------------------------------------------------------------------------------

    def dirty(self, touched: Touched) -> dict[str, Ids]:
        """Return by stage the rows that may differ after a change; it must look the same before and after."""
        changed: dict[str, Ids] = {}
        found: dict[str, Ids] = {}
        for stage in self.stored:
            rows = dirty_rows(stage, touched, changed, self.graph.edges, self.graph.nodes[stage.of].count)
            found[stage.name] = rows
            changed |= {value.name: rows for value in stage.values}
        return found

    def forget(self, dirty: Mapping[str, Ids]) -> None:
        """Forget rows of stages."""
        for stage in self.stored:
            ids = dirty.get(stage.name, NONE)
            ids = ids[ids < self.graph.nodes[stage.of].count]
            if ids.size:
                counts = [self.store.forget(value.name, ids) for value in stage.values]
                self.stats.rows_forgotten[stage.name] = self.stats.rows_forgotten.get(stage.name, 0) + counts[0]

    def refresh(self, touched: Touched, dirty: Mapping[str, Ids], before: Mapping[str, HeldRows]) -> None:
        """Compute rows again that were held before a change, stage by stage; stop where the new row equals the old.

        Args:
            touched: the change.
            dirty: by stage, the rows that may differ, which are forgotten.
            before: by stage, those of them that were held, with their values.
        """
        changed: dict[str, Ids] = {}
        for stage in self.stored:
            count = self.graph.nodes[stage.of].count
            rows = dirty_rows(stage, touched, changed, self.graph.edges, count)
            old = before[stage.name]
            kept = ~np.isin(old.ids, rows) & self.graph.nodes[stage.of].alive(old.ids)
            for value in stage.values:
                self.store.write(value.name, old.ids[kept], old.rows[value.name][torch.from_numpy(kept)])
            again = rows[np.isin(rows, old.ids) | (rows >= old.count)]
            again = again[self.graph.nodes[stage.of].alive(again)]
            self.compute({stage.name: again})
            differs = ~np.isin(rows, old.ids)  # what is not known from before counts as changed
            for value in stage.values if again.size else ():
                both = np.intersect1d(again, old.ids)
                place = torch.from_numpy(np.searchsorted(old.ids, both))
                new = self.store.read(value.name, both)
                unequal = differing(new, old.rows[value.name][place])
                differs |= np.isin(rows, both[unequal])
            changed |= {value.name: rows[differs] for value in stage.values}

    def held_rows(self, dirty: Mapping[str, Ids]) -> dict[str, HeldRows]:
        """Return by stage the rows that are held of those that may differ."""
        before = {}
        for stage in self.stored:
            ids = dirty[stage.name]
            count = self.graph.nodes[stage.of].count
            ids = ids[ids < count]
            ids = ids[self.held(stage, ids)]
            rows = {value.name: self.store.read(value.name, ids) for value in stage.values}
            before[stage.name] = HeldRows(ids, rows, count)
        return before

    def refresh_structure(self) -> frozenset[str]:
        """Compute values for the whole graph again; return the names of those that differ."""
        if not self.stages.structure:
            return frozenset()
        old, given = self.structure, self.graph.by_path()
        self.structure = self._structure_now(given)
        return frozenset(
            name for name, value in self.structure.items() if name not in old or not _same(value, old[name])
        )

    def _structure_now(self, given: Mapping[str, Any]) -> dict[str, Any]:
        kinds = self.stages.kinds
        wanted = {node for node in kinds.graph.nodes if node.name in self.stages.structure}
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
                    values[node] = (given[str(node.target)] if is_argument else run_node(self.gm, node, values, 0),)
        return {node.name: values[node][0] for node in wanted}

    def grow(self) -> None:
        """Let tables have a row for every node."""
        for stage in self.stored:
            for value in stage.values:
                self.store.grow(value.name, self.graph.nodes[stage.of].count)

    def check_outputs(self) -> None:
        """Raise a ServerError unless there is an output with rows of nodes."""
        if not self.outputs:
            raise ServerError("this graph has no output with a row per node")


def differing(rows: Tensor, others: Tensor) -> Flags:
    """Tell which rows of two tensors differ anywhere; NaN differs from itself."""
    unequal = rows != others
    return (unequal if unequal.dim() == 1 else unequal.flatten(1).any(1)).numpy()


def chunks(ids: Ids) -> Iterable[Ids]:
    """Split nodes into parts that are computed at once."""
    if ids.size <= _MOST_TARGETS:
        return [ids] if ids.size else []
    return np.array_split(ids, -(-ids.size // _MOST_TARGETS))


def _all_edges(around: Around) -> Around:
    return around


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, Tensor):
        return isinstance(other, Tensor) and value.shape == other.shape and bool(torch.equal(value, other))
    return bool(value == other)
