"""Rows of stages, computed where they are missing: what an answer needs is found from the outputs backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from upscale_fx.analysis.stages.demands import Space
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.progress import advance
from upscale_fx.errors import ServerError
from upscale_fx.passes.cut_stages import Operand, Stage, Stages
from upscale_fx.running.serving.graph.edge_table import Around
from upscale_fx.running.serving.locally import Local, Scratch, look_around, run_stage
from upscale_fx.running.serving.numbers import union
from upscale_fx.running.serving.overlay import Overlay
from upscale_fx.running.serving.sampling import Sampler
from upscale_fx.running.serving.served import ServedGraph
from upscale_fx.running.serving.statistics import Stats
from upscale_fx.running.serving.stores.base import Flags, Ids, Store, TableSpec
from upscale_fx.running.serving.threads import few_threads

#: The most targets that are computed at once.
_MOST_TARGETS = 1 << 15


class Computation:
    """Stages of a model over a graph, with the rows that a store holds."""

    def __init__(self, gm: CompiledGNN, stages: Stages, graph: ServedGraph, store: Store, stats: Stats) -> None:
        self.gm, self.stages, self.graph, self.store, self.stats = gm, stages, graph, store, stats
        self.sampler: Sampler | None = None
        self._overlay: Overlay | None = None
        self._symbols = {path: symbol for symbol, kind in graph.naming.nodes.items() for path in kind.inputs}
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

    @property
    def writes(self) -> bool:
        """Whether the store takes rows: it does not where another process writes it."""
        return self.store.writes

    @property
    def is_durable(self) -> bool:
        """Whether the store keeps changes for another process."""
        return self.store.durable

    @property
    def is_bounded(self) -> bool:
        """Whether the store may drop rows at any time."""
        return bool(getattr(self.store, "is_bounded", False))

    def held(self, stage: Stage, ids: Ids) -> Flags:
        """Tell which rows of a stage are held; a stage's values are written and forgotten together."""
        return self.store.held(stage.values[0].name, ids)

    # Answers ---------------------------------------------------------------------------------------------------------

    def answer(self, stage: Stage, ids: Ids) -> Sequence[Tensor]:
        """Return the values of an output stage at different nodes."""
        parts = []
        for some in chunks(ids):
            with self.session():
                local = self.look(stage, some)
                missing = self.compute(self.needs(stage, local))
                self.stats.hits += 0 if missing else 1
                parts.append(self.run(stage, local))
        return parts[0] if len(parts) == 1 else [torch.cat(rows) for rows in zip(*parts, strict=True)]

    @contextmanager
    def session(self) -> Iterator[None]:
        """Keep rows that the store does not take until the end of one answer."""
        self._overlay = Overlay() if self.sampler is not None or not self.writes or self.is_bounded else None
        try:
            yield
            if self.is_bounded and self._overlay is not None and self.writes:
                for table, ids, rows in self._overlay.waiting:  # only now, since they may drive others out
                    self.store.write(table, ids, rows)
        finally:
            self._overlay = None

    @contextmanager
    def exactly(self) -> Iterator[None]:
        """Take all edges, whatever the fan-outs."""
        sampler, self.sampler = self.sampler, None
        try:
            yield
        finally:
            self.sampler = sampler

    def look(self, stage: Stage, targets: Ids) -> Local:
        """Find what is around targets: all of their edges, or those that are drawn."""
        sampler = self.sampler
        fanout = sampler.fanout(stage) if sampler is not None else None
        if sampler is None or fanout is None:
            return self.look_at(stage, targets, _all_edges)
        return self.look_at(stage, targets, lambda around: sampler.draw(around, fanout))

    def look_at(self, stage: Stage, targets: Ids, chosen: Callable[[Around], Around]) -> Local:
        """Find what is around targets along some of their edges."""
        return look_around(stage, targets, self.graph.edges, self.scratch, chosen)

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
        """Compute the rows of stages, by name, that are not there, and all that they need; return how many."""
        needed = {name: [ids] for name, ids in wanted.items()}
        found: dict[str, list[Local]] = {}
        for stage in reversed(self.stored):
            if stage.name not in needed:
                continue
            ids = union(needed[stage.name])
            ids = ids[~self.there(stage, ids)]
            for some in chunks(ids):
                local = self.look(stage, some)
                found.setdefault(stage.name, []).append(local)
                for name, rows in self.needs(stage, local).items():
                    needed.setdefault(name, []).append(rows)
        for stage in self.stored:
            for local in found.get(stage.name, ()):
                self._fill(stage, local)
                advance()
        return sum(local.targets.size for locals_ in found.values() for local in locals_)

    def there(self, stage: Stage, ids: Ids) -> Flags:
        """Tell which rows of a stage are held, or known within this answer."""
        held = self.held(stage, ids)
        return held if self._overlay is None else held | self._overlay.held(stage.values[0].name, ids)

    def _fill(self, stage: Stage, local: Local) -> None:
        """Compute rows of a stage, all of whose reads are there, and keep them."""
        results = self.run(stage, local)
        ids = local.targets
        exact = self._exact(stage, local) if self.sampler is not None else np.ones(ids.size, dtype=bool)
        kept = exact if self.writes else np.zeros(ids.size, dtype=bool)
        for value, rows in zip(stage.values, results, strict=True):
            if self._overlay is not None and (self.is_bounded or not kept.all()):
                later = kept if self.is_bounded else np.zeros(ids.size, dtype=bool)
                rest = later | ~kept
                self._overlay.write(value.name, ids[rest], rows[torch.from_numpy(rest)])
                if later.any():
                    self._overlay.waiting.append((value.name, ids[later], rows[torch.from_numpy(later)]))
                kept = kept & ~later
            if kept.any():
                self.store.write(value.name, ids[kept], rows[torch.from_numpy(kept)] if not kept.all() else rows)

    def _exact(self, stage: Stage, local: Local) -> Flags:
        """Tell for which targets all edges were taken, and all rows that were read are exact."""
        exact = np.ones(local.targets.size, dtype=bool)
        for relation in stage.relations:
            near = local.far[Space("far", relation.of, relation.end)]
            degrees = self.graph.edges[relation.of].degrees(local.targets, relation.end)
            exact &= degrees == np.diff(near.around.rowptr)
        for operand in stage.operands:
            source = self.by_value.get(operand.name) if operand.kind == "rows" else None
            if source is None:
                continue
            if operand.space.where == "own":
                exact &= self.held(source, local.targets)
                continue
            near = local.far[operand.space]
            if operand.space in stage.with_targets:
                exact &= self.held(source, local.targets)
            if near.places.size:
                wrong = (~self.held(source, near.ids))[near.places]
                row = np.repeat(np.arange(local.targets.size), np.diff(near.around.rowptr))
                exact &= np.bincount(row, wrong, local.targets.size) == 0
        return exact

    def run(self, stage: Stage, local: Local) -> Sequence[Tensor]:
        """Compute the values of a stage at its targets."""
        self.stats.count_computed(stage, local.targets.size, local.edges)
        with few_threads(stage.macs_per_node * local.targets.size + stage.macs_per_edge * local.edges):
            return run_stage(stage, local, self._rows, self._edge_values, self._other)

    def _rows(self, name: str, ids: Ids, nothing: bool) -> Tensor:
        """Rows of an argument or of a stored value."""
        source = self.by_value.get(name)
        if source is None:
            return self.graph.nodes[self._symbols[name]].read(name, ids)
        value = next(value for value in source.values if value.name == name)
        if nothing:
            return torch.zeros((ids.size, *value.shape), dtype=value.dtype)
        self.stats.count_read(source.name, ids.size, value.row_bytes)
        if self._overlay is None:
            return self.store.read(name, ids)
        held = self.store.held(name, ids)
        if held.all():
            return self.store.read(name, ids)
        rows = self._overlay.read(name, ids) if not held.any() else None
        if rows is None:
            some, others = self.store.read(name, ids[held]), self._overlay.read(name, ids[~held])
            rows = some.new_empty((ids.size, *some.shape[1:]))
            rows[torch.from_numpy(held)], rows[torch.from_numpy(~held)] = some, others
        return rows

    def _edge_values(self, path: str, name: str, ids: Ids) -> Tensor:
        kind = self.graph.naming.edges[path]
        short = next(short for short, (at, _) in kind.values.items() if at == name)
        return self.graph.edges[path].values_at(ids)[short]

    def _other(self, operand: Operand) -> Any:
        return self.structure[operand.name] if operand.kind == "structure" else self.graph.arguments[operand.name]

    def grow(self) -> None:
        """Let tables have a row for every node."""
        for stage in self.stored:
            for value in stage.values:
                self.store.grow(value.name, self.graph.nodes[stage.of].count)

    def cost(self, table: str, ids: Ids) -> NDArray[np.float64]:
        """Return the multiply-adds that rows of a table would take to compute again."""
        stage = self.by_value[table]
        total = np.full(ids.size, stage.macs_per_node)
        for relation in stage.relations:
            total += stage.macs_per_edge * self.graph.edges[relation.of].degrees(ids, relation.end)
        return total

    def check_outputs(self) -> None:
        """Raise a ServerError unless there is an output with rows of nodes."""
        if not self.outputs:
            raise ServerError("this graph has no output with a row per node")


def chunks(ids: Ids) -> Iterable[Ids]:
    """Split nodes into parts that are computed at once."""
    if ids.size <= _MOST_TARGETS:
        return [ids] if ids.size else []
    return np.array_split(ids, -(-ids.size // _MOST_TARGETS))


def _all_edges(around: Around) -> Around:
    return around
