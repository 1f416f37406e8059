"""Versions of a served graph: each change becomes one, in the store first, then in the graph and its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upscale_fx.errors import InputError, ServerError
from upscale_fx.passes.cut_stages import Stages
from upscale_fx.running.serving import updating
from upscale_fx.running.serving.changes import Change
from upscale_fx.running.serving.computing import Computation
from upscale_fx.running.serving.differences import Differences, Partial
from upscale_fx.running.serving.freshness import Touched
from upscale_fx.running.serving.moved import differences
from upscale_fx.running.serving.numbers import union
from upscale_fx.running.serving.stores.base import Ids, Recovered

#: Bytes of the log after which the whole graph is kept anew.
_MOST_LOG = 256 << 20


class Versions:
    """The present version of a graph, and how it becomes the next.

    Attributes:
        number: of the present version.
    """

    def __init__(self, computation: Computation, eager: bool, differences: Differences | None = None) -> None:
        self.computation, self.eager, self.number = computation, eager, 0
        self.differences = differences
        self._origin = ""

    # Opening ---------------------------------------------------------------------------------------------------------

    def open(self, identity: str, is_given: bool) -> None:
        """Open the store, and take up the graph that it kept.

        Where the graph that the server was given is the one that the store was made with, or the one that it holds, the
        store's is taken, with all changes that were committed. Another one counts as moved: rows that may differ are
        forgotten.

        Args:
            identity: of the model.
            is_given: whether the server was given a graph, which the computation then has.
        """
        store, graph = self.computation.store, self.computation.graph
        recovered = store.open(self.computation.tables(), identity)
        if recovered is None or not recovered.state:
            if not is_given:
                raise InputError(
                    "this store holds no graph: pass one, as in Server(compiled, x, edge_index, store=...)"
                )
            self._origin = fingerprint(graph.state())
            if self.computation.writes:
                self._forget_everything()
                self.checkpoint()
        else:
            given = graph.state() if is_given else None
            self._restore(recovered)
            if given is not None:
                self._take(given)
        updating.refresh_structure(self.computation)

    def _restore(self, recovered: Recovered) -> None:
        graph = self.computation.graph
        state = dict(recovered.state)
        self._origin = np.asarray(state.pop("origin")).tobytes().decode()
        graph.restore(state)
        self.number = recovered.version
        for version, data in recovered.changes:
            Change.decoded(graph, data).apply()
            self.number = version
        self.computation.grow()

    def _take(self, given: Mapping[str, Any]) -> None:
        """Go on with the store's graph if it grew from the given one, else with the given one."""
        graph = self.computation.graph
        mark = fingerprint(given)
        if mark == self._origin or mark == fingerprint(graph.state()):
            return
        if not self.computation.writes:
            raise ServerError(
                "another process writes this store, and its graph is another one than was given here: leave the graph "
                "out, as in Server(compiled, store=...), to read what it serves"
            )
        old = (dict(graph.nodes), dict(graph.edges))
        graph.restore(given)
        touched = differences((old[0], graph.nodes), (old[1], graph.edges))
        stale = None
        if touched is not None:
            graph.nodes, graph.edges, new = *old, (graph.nodes, graph.edges)
            stale = updating.dirty(self.computation, touched)
            graph.nodes, graph.edges = new
        self.computation.grow()
        if touched is None or stale is None:
            self._forget_everything()
        else:
            after = updating.dirty(self.computation, touched)
            updating.forget(self.computation, {name: union([stale[name], after[name]]) for name in stale})
        self._origin = mark
        self.number += 1
        self.checkpoint()

    def _forget_everything(self) -> None:
        computation = self.computation
        for stage in computation.stored:
            for value in stage.values:
                computation.store.forget(value.name, computation.store.held_ids(value.name))

    def checkpoint(self) -> None:
        """Keep the whole graph, so that the log starts anew."""
        state = self.computation.graph.state()
        state["origin"] = np.frombuffer(self._origin.encode(), np.uint8)
        self.computation.store.checkpoint(self.number, state)

    # Changes ---------------------------------------------------------------------------------------------------------

    def commit(self, change: Change) -> None:
        """Make a change the next version; after an error nothing is changed."""
        if not change.steps:
            return
        computation = self.computation
        if not computation.writes:
            raise ServerError("another process writes this store; this server only reads it: change the graph there")
        touched = change.touched()
        if computation.stages.structure:
            rows = self._apply_first(change, touched)
        else:
            rows = updating.known(computation, updating.dirty(computation, touched))
        before = updating.held_rows(computation, rows) if self.eager else {}
        partials: dict[str, Partial] = {}
        if self.differences is not None and not computation.stages.structure:
            partials = self.differences.before(touched, rows)
        if not computation.stages.structure:
            data = change.encoded() if computation.is_durable else b""
            computation.store.commit(self.number + 1, data, updating.by_table(computation, rows))
            change.apply()
        computation.grow()
        self.number += 1
        computation.stats.updates += 1
        updating.forget(computation, rows)
        if self.eager:
            updating.refresh(computation, touched, before, self.differences, partials)
        if computation.is_durable and computation.store.log_bytes > _MOST_LOG:
            self.checkpoint()

    def _apply_first(self, change: Change, touched: Touched) -> dict[str, Ids]:
        """Change the graph, since values for all of it show only afterwards what differs; go back if that fails."""
        computation = self.computation
        counts = {symbol: rows.count for symbol, rows in computation.graph.nodes.items()}
        before, structure = computation.graph.state(), computation.structure
        stale = updating.dirty(computation, touched)
        try:
            change.apply()
            touched.everything = updating.refresh_structure(computation)
            if touched.everything:
                stale = updating.dirty(computation, touched)
            rows = {s.name: stale[s.name][stale[s.name] < counts[s.of]] for s in computation.stored}
            data = change.encoded() if computation.is_durable else b""
            computation.store.commit(self.number + 1, data, updating.by_table(computation, rows))
        except BaseException:
            computation.graph.restore(before)
            computation.structure = structure
            raise
        return rows

    def follow(self) -> None:
        """In a process that only reads a store: move to the newest version."""
        if self.computation.writes:
            return
        for version, data in self.computation.store.refresh():
            Change.decoded(self.computation.graph, data).apply()
            self.number = version
        self.computation.grow()
        updating.refresh_structure(self.computation)


def fingerprint(state: Mapping[str, Any]) -> str:
    """A digest of a graph: of all arguments and edges in order, whatever their ids."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if not name.endswith("/ids"):
            array = state[name][:2] if name.endswith("/sizes") else state[name]  # without the next id
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def identity_of(stages: Stages) -> str:
    """A digest of the operations, weights and dtypes of a model in stages."""
    digest = hashlib.sha256()
    for stage in stages.stages:
        module: Any = stage.module
        digest.update(f"{stage.name} {stage.of} {stage.operands} {stage.values}".encode())
        digest.update(module.code.encode())
        for name, tensor in sorted({**dict(module.named_parameters()), **dict(module.named_buffers())}.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(_content(tensor))
    return digest.hexdigest()[:16]


def _content(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
