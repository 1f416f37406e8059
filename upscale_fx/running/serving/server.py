"""A server: answers for nodes of a graph that changes, from stored rows."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.progress import stage, stages
from upscale_fx.errors import InputError, ServerError
from upscale_fx.passes.cut_stages import CutStages
from upscale_fx.running.serving.changes import Change
from upscale_fx.running.serving.checked import check_stages
from upscale_fx.running.serving.computing import Computation, chunks
from upscale_fx.running.serving.differences import Differences
from upscale_fx.running.serving.naming import NodeType, naming_of
from upscale_fx.running.serving.sampling import Sampler
from upscale_fx.running.serving.served import ServedGraph, empty_graph
from upscale_fx.running.serving.statistics import ByStage, Stats
from upscale_fx.running.serving.stores.bounded import bounded
from upscale_fx.running.serving.stores.choose import make_store
from upscale_fx.running.serving.stores.reduced import reduced
from upscale_fx.running.serving.versions import Versions, identity_of


class Server:
    """Answers for single nodes while the graph changes: what the compiled model gives for the whole graph now.

    Args:
        compiled: what ``prune``, ``compact``, ``optimize`` or ``trace`` returned, in eval mode.
        *args: the graph: the arguments of the model's ``forward()``, or a ``Data`` object.
        store: where rows are kept: None is memory; a path is a folder that outlives the process, with a log of all
            changes; any ``FeatureStore`` of PyG. With a store that holds a graph, the arguments may be left out.
        fanouts: neighbours per node at hop 0, 1, ..., drawn at random, instead of all: approximate answers. Only exact
            rows are ever stored.
        seed: of these draws.
        eager: compute rows that a change touches at once, and stop where a new row equals the old one; otherwise they
            are forgotten, and computed when they are asked for.
        incremental: eager, and sums, means and extremes over neighbours take the difference of what changed instead of
            reading all neighbours again: fast at nodes with many edges, and not bit for bit. A row is computed anew
            after 64 differences; ``verify`` measures how far rows have drifted.
        dtype: keep rows as ``torch.bfloat16``, or ``torch.int8`` with a scale per row: approximate answers; see
            ``largest_error``.
        capacity: at most so many bytes of rows; those that are cheapest to compute again go first.
        **kwargs: further arguments of ``forward()``.

    Raises:
        ServerError: the model cannot be answered node by node; names the operation and the reason.
        InputError: the arguments do not fit the model.
    """

    def __init__(
        self,
        compiled: CompiledGNN,
        *args: Any,
        store: Any = None,
        fanouts: Sequence[int] | None = None,
        seed: int = 0,
        eager: bool = False,
        incremental: bool = False,
        dtype: torch.dtype | None = None,
        capacity: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(compiled, CompiledGNN):
            raise InputError(
                f"Server() serves a compiled model, got {type(compiled).__name__}: pass what upscale_fx.prune(model) "
                f"or upscale_fx.trace(model) returned"
            )
        if compiled.training:
            raise ServerError("this graph is in train(): batch norm and dropout depend on the batch; call eval() first")
        gm = copy.deepcopy(compiled)
        cut = CutStages(sums=incremental)(gm)
        self._naming = naming_of(gm, cut.kinds)
        is_given = bool(args or kwargs) or store is None
        self._graph = ServedGraph(gm, self._naming, args, kwargs) if is_given else empty_graph(gm, self._naming)
        self.stats = Stats(cut.stages)
        rows = make_store(store) if dtype is None else reduced(make_store(store), dtype)
        self._computation = Computation(gm, cut, self._graph, rows, self.stats)
        if capacity is not None:
            self._computation.store = bounded(rows, capacity, self._computation.cost)
        self._computation.check_outputs()
        adding = check_stages(gm, cut, self._naming)
        if fanouts is not None:
            self._computation.sampler = Sampler(fanouts, cut, seed)
        differences = Differences(self._computation, adding) if incremental else None
        self._versions = Versions(self._computation, eager or incremental, differences)
        self._lock = threading.RLock()
        self._open: Change | None = None
        self._closed = False
        self._versions.open(identity_of(cut), is_given)

    @property
    def version(self) -> int:
        """The number of the present version: every change, or transaction, adds one."""
        return self._versions.number

    @property
    def largest_error(self) -> float:
        """The largest difference that ``dtype`` made in a stored number so far; 0 without it."""
        store: Any = self._computation.store
        while store is not None and not hasattr(store, "largest_error"):
            store = getattr(store, "_store", None)
        return 0.0 if store is None else float(store.largest_error)

    # Answers ---------------------------------------------------------------------------------------------------------

    def __call__(self, node_ids: Any, *, node_type: Any = None) -> Any:
        """Return the outputs of nodes, ``[len(node_ids), ...]`` each: what the model gives for the whole graph now.

        Args:
            node_ids: numbers in any order; they may repeat.
            node_type: of heterogeneous graphs, the type of the nodes.

        Raises:
            ServerError: a node does not exist or was removed, or the server is closed.
        """
        with self._working():
            kinds = self._types_of_outputs()
            kind = self._naming.node_type(node_type if node_type is not None or len(kinds) != 1 else kinds[0].name)
            numbers = Change(self._graph).known(kind, node_ids)
            self.stats.answers += 1
            different, places = np.unique(numbers, return_inverse=True)
            found: dict[str, Tensor] = {}
            back = torch.from_numpy(places.reshape(-1))
            for step in self._computation.outputs:
                if step.of == kind.symbol:
                    rows = self._computation.answer(step, different) if different.size else _no_rows(step)
                    for value, result in zip(step.values, rows, strict=True):
                        found[value.name] = result.index_select(0, back)
            return _only(pytree.tree_map(found.get, self._computation.stages.outputs), found)

    def _types_of_outputs(self) -> list[NodeType]:
        symbols = dict.fromkeys(stage.of for stage in self._computation.outputs)
        return [self._naming.nodes[symbol] for symbol in symbols]

    def warm(self) -> None:
        """Compute all rows that are missing, stage by stage, with a progress bar; rows of fan-outs are exact too."""
        with self._working(), stages("warm"):
            for step in self._computation.stored:
                stage(f"stage {step.name}")
                for some in chunks(self._graph.nodes[step.of].living()):
                    with self._computation.exactly(), self._computation.session():
                        self._computation.compute({step.name: some})

    # Changes ---------------------------------------------------------------------------------------------------------

    def add_nodes(self, x: Any, *, node_type: Any = None) -> Tensor:
        """Add nodes with rows ``[k, ...]``; return their numbers, int64 ``[k]``."""
        with self._changing() as change:
            return torch.from_numpy(change.add_nodes(self._naming.node_type(node_type), x))

    def remove_nodes(self, ids: Any, *, node_type: Any = None) -> None:
        """Remove nodes and their edges; their numbers are never used again."""
        with self._changing() as change:
            change.remove_nodes(self._naming.node_type(node_type), ids)

    def update_features(self, ids: Any, x: Any, *, node_type: Any = None) -> None:
        """Give nodes other rows ``[len(ids), ...]``."""
        with self._changing() as change:
            change.update_features(self._naming.node_type(node_type), ids, x)

    def add_edges(self, edge_index: Tensor, *, edge_type: Any = None, **edge_values: Tensor) -> None:
        """Add edges ``[2, k]``, with all values that edges have."""
        with self._changing() as change:
            change.add_edges(self._naming.edge_type(edge_type), edge_index, edge_values)

    def update_edges(self, edge_index: Tensor, *, edge_type: Any = None, **edge_values: Tensor) -> None:
        """Give all edges between each pair other values."""
        with self._changing() as change:
            change.update_edges(self._naming.edge_type(edge_type), edge_index, edge_values)

    def remove_edges(self, edge_index: Tensor, *, edge_type: Any = None) -> None:
        """Remove all edges between each pair."""
        with self._changing() as change:
            change.remove_edges(self._naming.edge_type(edge_type), edge_index)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Let all changes inside become one version; after an exception nothing is changed."""
        with self._working():
            if self._open is not None:
                raise ServerError("a transaction is open already; they cannot be nested")
            self._open = Change(self._graph)
        try:
            yield
        except BaseException:
            with self._lock:
                self._open = None
            raise
        with self._working():
            change, self._open = self._open, None
            self._versions.commit(change)

    @contextmanager
    def _changing(self) -> Iterator[Change]:
        with self._working():
            if self._open is not None:
                steps = len(self._open.steps)
                yield self._open
                assert len(self._open.steps) > steps
                return
            change = Change(self._graph)
            yield change
            self._versions.commit(change)

    # What there is ---------------------------------------------------------------------------------------------------

    def inputs(self) -> tuple[Any, ...]:
        """Return the graph as it is now, as the arguments of the compiled model."""
        with self._working():
            return self._graph.inputs()

    def stale(self) -> ByStage[Tensor]:
        """Return by stage the nodes whose rows would have to be computed, ascending."""
        with self._working():
            found = []
            for step in self._computation.stored:
                ids = self._graph.nodes[step.of].living()
                found.append(torch.from_numpy(ids[~self._computation.held(step, ids)]))
            return ByStage([step.name for step in self._computation.stored], found)

    def reset_stats(self) -> None:
        """Start counting anew."""
        with self._lock:
            self.stats = Stats(self._computation.stages.stages)
            self._computation.stats = self.stats

    def close(self) -> None:
        """End the server; every later call raises a ServerError."""
        with self._lock:
            if not self._closed:
                self._closed = True
                try:
                    if self._computation.is_durable and self._computation.writes:
                        self._versions.checkpoint()
                finally:
                    self._computation.store.close()

    def verify(self, rows: int = 1000) -> float:
        """Compute random stored rows again, of all stages; return the largest difference, for monitoring.

        Args:
            rows: how many rows of each stage.
        """
        with self._working(), self._computation.exactly():
            worst = 0.0
            for step in self._computation.stored:
                held = self._computation.store.held_ids(step.values[0].name)
                ids = np.sort(np.random.default_rng().permutation(held)[:rows])
                for some in chunks(ids):
                    with self._computation.session():
                        local = self._computation.look(step, some)
                        self._computation.compute(self._computation.needs(step, local))
                        for value, again in zip(step.values, self._computation.run(step, local), strict=True):
                            stored = self._computation.store.read(value.name, some)
                            worst = max(worst, largest_difference(stored, again))
            return worst

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def _working(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise ServerError("this server is closed; make a new one, with the same store to keep its rows")
            self._versions.follow()
            yield


def _no_rows(stage: Any) -> list[Tensor]:
    return [torch.empty((0, *value.shape), dtype=value.dtype) for value in stage.values]


def _only(outputs: Any, found: Mapping[str, Tensor]) -> Any:
    """The outputs that nodes of one type have: alone where there is one."""
    return next(iter(found.values())) if len(found) == 1 else outputs


def largest_difference(rows: Tensor, others: Tensor) -> float:
    """The largest difference between two tensors; NaN where only one is."""
    if not rows.numel() or torch.equal(rows, others):
        return 0.0
    return float((rows.double() - others.double()).abs().max())
