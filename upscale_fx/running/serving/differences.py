"""Sums over neighbours that take the difference of what changed, instead of reading all neighbours again.

A sum over the edges of a node is what it was, less what changed edges gave, plus what they give now; both are partial
sums, which the stage itself computes from some edges only. Means are sums by count. An extreme stays unless an edge
that gave it changed. (InkStream and RIPPLE do so for some models by hand; here the stage is any whose partial sums add
up when tried.) Differences round differently from a new sum, so a row is computed anew after ``MOST`` of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from upscale_fx.analysis.stages.demands import Space
from upscale_fx.analysis.stages.stage import Stage
from upscale_fx.running.serving.computing import Computation
from upscale_fx.running.serving.freshness import NONE, Touched
from upscale_fx.running.serving.graph.edge_table import Around
from upscale_fx.running.serving.numbers import union, within
from upscale_fx.running.serving.stores.base import Flags, Ids

#: A row is computed anew after so many differences.
MOST = 64
#: Differences are taken where this many times the changed edges are fewer than all edges of a node.
_WORTH = 2


@dataclass(frozen=True)
class Partial:
    """What the edges that change gave before.

    Attributes:
        targets: nodes, ascending.
        rows: per value, the partial sums.
        counts: how many edges that is.
        degrees: how many edges there were in all.
        sources: the nodes that may have other rows, at the other end of edges.
        edges: ids of edges that go or get other values.
        next_id: edges from this id on are new.
    """

    targets: Ids
    rows: Mapping[str, Tensor]
    counts: Ids
    degrees: Ids
    sources: Ids
    edges: Ids
    next_id: int


class Differences:
    """Takes differences in the stages that sum over neighbours, and counts them by row.

    Args:
        computation: the stages and their rows.
        adding: names of the stages whose partial sums add up.

    Attributes:
        taken: by stage, how many rows took a difference since the server was made.
    """

    def __init__(self, computation: Computation, adding: Collection[str]) -> None:
        self.computation, self.adding = computation, adding
        self.taken: dict[str, int] = {}
        self._counts: dict[str, Ids] = {}

    def before(self, touched: Touched, dirty: Mapping[str, Ids]) -> dict[str, Partial]:
        """Return by stage what edges give that a change touches; the graph and all rows are those before it."""
        if touched.edge_ids is None:
            return {}
        changed: dict[str, Ids] = {}
        found: dict[str, Partial] = {}
        for stage in self.computation.stored:
            if stage.name in self.adding and len(stage.relations) == 1:
                partial = self._before(stage, touched, changed, dirty[stage.name])
                if partial is not None:
                    found[stage.name] = partial
            changed |= {value.name: dirty[stage.name] for value in stage.values}
        return found

    def _before(self, stage: Stage, touched: Touched, changed: Mapping[str, Ids], dirty: Ids) -> Partial | None:
        relation, computation = stage.relations[0], self.computation
        far = Space("far", relation.of, relation.end)
        table = computation.graph.edges[relation.of]
        if set(stage.reduces) != {"sum"} and (stage.loops or stage.joined):
            return None  # counts and extremes of edges that the model itself adds or removes are not known
        reads = [o.name for o in stage.operands if o.kind == "rows" and o.space == far]
        sources = _union([changed.get(name, touched.rows.get(name, NONE)) for name in reads])
        edges = (touched.edge_ids or {}).get(relation.of, NONE)
        nodes = computation.graph.nodes[stage.of]
        targets = dirty[computation.held(stage, dirty) & nodes.alive(dirty)]
        around = table.around(targets, relation.end)
        kept = _changing(around, targets, sources, edges, table.next_id)
        counts, degrees = _by_target(around, kept), np.diff(around.rowptr)
        worth = counts * _WORTH < degrees
        targets, counts, degrees = targets[worth], counts[worth], degrees[worth]
        if not targets.size:
            return None
        rows = self._partial(stage, targets, sources, edges, table.next_id)
        if rows is None:
            return None
        return Partial(targets, rows, counts, degrees, sources, edges, table.next_id)

    def _partial(
        self, stage: Stage, targets: Ids, sources: Ids, edges: Ids, next_id: int, *, compute: bool = False
    ) -> dict[str, Tensor] | None:
        """Return per value what some edges of targets give; None if a row that this reads is not held."""
        computation = self.computation
        local = computation.look_at(
            stage, targets, lambda around: some_edges(around, _changing(around, targets, sources, edges, next_id))
        )
        needs = computation.needs(stage, local)
        if compute:
            computation.compute(needs)
        elif not all(computation.held(self._stage(name), ids).all() for name, ids in needs.items()):
            return None
        results = computation.run(stage, local)
        return {value.name: rows for value, rows in zip(stage.values, results, strict=True)}

    def _stage(self, name: str) -> Stage:
        return next(stage for stage in self.computation.stored if stage.name == name)

    def after(
        self, stage: Stage, partial: Partial | None, again: Ids, own: Ids, old: Mapping[str, Tensor], old_ids: Ids
    ) -> Ids:
        """Write the rows of a stage that take a difference; return those that do.

        Args:
            stage: the stage; the graph and the rows that it reads are those after the change.
            partial: what changed edges gave before.
            again: the rows to compute.
            own: nodes whose own rows, which all of their edges read, are others than before.
            old: by value, rows before the change, of ``old_ids``.
            old_ids: nodes, ascending.
        """
        counts = self._counts_of(stage)
        if partial is None:
            counts[again] = 0
            return NONE
        among = within(partial.targets, again) & ~within(partial.targets, own)
        among &= counts[partial.targets] < MOST
        targets = partial.targets[among]
        if not targets.size:
            counts[again] = 0
            return NONE
        table = self.computation.graph.edges[stage.relations[0].of]
        around = table.around(targets, stage.relations[0].end)
        kept = _changing(around, targets, partial.sources, partial.edges, partial.next_id)
        new_counts, degrees = _by_target(around, kept), np.diff(around.rowptr)
        now = self._partial(stage, targets, partial.sources, partial.edges, partial.next_id, compute=True)
        assert now is not None
        place, at = torch.from_numpy(np.flatnonzero(among)), torch.from_numpy(np.searchsorted(old_ids, targets))
        sides = (partial.counts[among], new_counts), (partial.degrees[among], degrees)
        right = np.ones(targets.size, dtype=bool)
        results = {}
        for value, reduce in zip(stage.values, stage.reduces, strict=True):
            rows, fits = _combined(
                reduce, old[value.name][at], partial.rows[value.name][place], now[value.name], *sides
            )
            results[value.name], right = rows, right & fits
        done = targets[right]
        for name, rows in results.items():
            self.computation.store.write(name, done, rows[torch.from_numpy(right)])
        counts[again] = np.where(within(again, done), counts[again] + 1, 0)
        self.taken[stage.name] = self.taken.get(stage.name, 0) + done.size
        return done

    def _counts_of(self, stage: Stage) -> Ids:
        count = self.computation.graph.nodes[stage.of].count
        old = self._counts.get(stage.name, NONE)
        if old.size < count:
            old = np.concatenate([old, np.zeros(max(count, 2 * old.size) - old.size, np.int64)])
            self._counts[stage.name] = old
        return old


def _combined(
    reduce: str, old: Tensor, gone: Tensor, come: Tensor, changing: tuple[Ids, Ids], degrees: tuple[Ids, Ids]
) -> tuple[Tensor, Flags]:
    """Return rows after a change, and which of them are right; the others must be computed anew.

    Args:
        reduce: ``sum``, ``mean``, ``max`` or ``min``.
        old: rows before, ``[k, ...]``.
        gone: what the changed edges gave before.
        come: what they give now.
        changing: how many edges that is, before and now.
        degrees: how many edges there are in all, before and now.
    """
    if reduce == "sum":
        return old + (come - gone), np.ones(len(old), dtype=bool)
    before, now = (along(counts, old) for counts in changing)
    if reduce == "mean":
        was, are = (along(counts, old) for counts in degrees)
        return (old * was + (come * now - gone * before)) / are.clamp(min=1), degrees[1] > 0
    sign = 1.0 if reduce == "max" else -1.0
    best = torch.where(now > 0, torch.maximum(sign * old, sign * come), sign * old)
    lost = (before > 0) & (sign * gone >= sign * old) & ~((now > 0) & (sign * come >= sign * old))
    right = ~lost.flatten(1).any(1).numpy() if lost.dim() > 1 else ~lost.numpy()
    return sign * best, right & (degrees[0] > 0) & (degrees[1] > 0)


def along(counts: Ids, rows: Tensor) -> Tensor:
    """Counts as numbers beside rows ``[k, ...]``."""
    return torch.from_numpy(counts).to(rows.dtype).reshape(-1, *(1,) * (rows.dim() - 1))


def _changing(around: Around, targets: Ids, sources: Ids, edges: Ids, next_id: int) -> Flags:
    """Tell which edges of targets differ: by their other end, their own value, being new, or as a loop of the node.

    A loop counts always: models that add one to every node read there whether it was there before.
    """
    kept = within(around.others, sources) | (around.edges >= next_id)
    kept |= around.others == np.repeat(targets, np.diff(around.rowptr))
    return kept | within(around.edges, edges) if edges.size else kept


def _by_target(around: Around, kept: Flags) -> Ids:
    """How many of the kept edges each target has."""
    sums = np.concatenate([[0], np.cumsum(kept)])
    counts: Ids = sums[around.rowptr[1:]] - sums[around.rowptr[:-1]]
    return counts


def some_edges(around: Around, kept: Flags) -> Around:
    """Some of the edges, in the order in which they were."""
    rowptr = np.concatenate([[0], np.cumsum(_by_target(around, kept))])
    return Around(rowptr, around.others[kept], around.edges[kept])


def _union(parts: list[Ids]) -> Ids:
    return union([*parts, NONE])
