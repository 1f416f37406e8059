"""Changes of a served graph: checked when they are asked for, applied all at once, and written to a log as bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upscale_fx.errors import InputError, ServerError
from upscale_fx.running.serving.encoding import Step, decoded, encoded
from upscale_fx.running.serving.freshness import NONE, Touched
from upscale_fx.running.serving.moved import differing
from upscale_fx.running.serving.naming import EdgeType, NodeType
from upscale_fx.running.serving.numbers import different
from upscale_fx.running.serving.served import ServedGraph, checked_rows
from upscale_fx.running.serving.stores.base import Ids


class Change:
    """Steps that become one version of the graph."""

    def __init__(self, graph: ServedGraph) -> None:
        self.graph = graph
        self.steps: list[Step] = []
        self._counts = {symbol: rows.count for symbol, rows in graph.nodes.items()}
        self._removed: dict[str, set[int]] = {}
        self._pairs: dict[str, dict[tuple[int, int], bool]] = {}

    def add_nodes(self, kind: NodeType, x: Any) -> Ids:
        """Check and note new nodes; return their numbers."""
        values = _node_values(kind, x, "x")
        counts = {value.size(0) for value in values.values()}
        if values.keys() != kind.inputs.keys():
            raise InputError(f"new nodes need {', '.join(kind.inputs)}: pass a dictionary by these names")
        if len(counts) != 1:
            raise InputError(f"the arguments of new nodes have different numbers of rows: {sorted(counts)}")
        first = self._counts[kind.symbol]
        self._counts[kind.symbol] += counts.pop()
        ids = np.arange(first, self._counts[kind.symbol])
        self.steps.append(Step("add_nodes", kind.symbol, ids, values=values))
        return ids

    def remove_nodes(self, kind: NodeType, ids: Any) -> None:
        """Check and note nodes that go, with their edges."""
        numbers = np.unique(self.known(kind, ids))
        self.steps.append(Step("remove_nodes", kind.symbol, numbers))
        self._removed.setdefault(kind.symbol, set()).update(numbers.tolist())

    def update_features(self, kind: NodeType, ids: Any, x: Any) -> None:
        """Check and note other rows of arguments."""
        numbers = self.known(kind, ids)
        values = _node_values(kind, x, "x")
        wrong = [path for path, value in values.items() if value.size(0) != numbers.size]
        if wrong:
            raise InputError(f"{wrong[0]} has {values[wrong[0]].size(0)} rows for {numbers.size} nodes")
        self.steps.append(Step("update_nodes", kind.symbol, numbers, values=values))

    def add_edges(self, kind: EdgeType, edge_index: Any, values: Mapping[str, Any]) -> None:
        """Check and note new edges."""
        pairs = self._ends(kind, edge_index)
        self.steps.append(Step("add_edges", kind.path, pairs=pairs, values=_edge_values(kind, values, pairs, True)))
        if self._pairs or self.steps[:-1]:
            known = self._pairs.setdefault(kind.path, {})
            known.update(dict.fromkeys(zip(*pairs.tolist(), strict=True), True))
        else:
            self._pairs[kind.path] = dict.fromkeys(zip(*pairs.tolist(), strict=True), True)

    def remove_edges(self, kind: EdgeType, edge_index: Any) -> None:
        """Check and note edges that go: all between each pair."""
        pairs = self._ends(kind, edge_index)
        self._check_there(kind, pairs)
        self.steps.append(Step("remove_edges", kind.path, pairs=pairs))
        self._pairs.setdefault(kind.path, {}).update(dict.fromkeys(zip(*pairs.tolist(), strict=True), False))

    def update_edges(self, kind: EdgeType, edge_index: Any, values: Mapping[str, Any]) -> None:
        """Check and note other values of edges: of all between each pair."""
        pairs = self._ends(kind, edge_index)
        if not values:
            names = ", ".join(kind.values) or "none: its edges have no values"
            raise InputError(f"update_edges() needs new values of edges by name; edges of {kind.name!r} have {names}")
        self._check_there(kind, pairs)
        self.steps.append(Step("update_edges", kind.path, pairs=pairs, values=_edge_values(kind, values, pairs, False)))

    def known(self, kind: NodeType, ids: Any) -> Ids:
        """Return numbers of nodes that are there, int64; raises a ServerError that names the first that is not."""
        numbers = as_numbers(ids, "node_ids")
        count = self._counts[kind.symbol]
        outside = (numbers < 0) | (numbers >= count)
        if outside.any():
            raise ServerError(
                f"there is no node {numbers[outside][0]} of {kind.name!r}: numbers go from 0 to {count - 1}; nothing "
                f"was changed"
            )
        old = numbers < self.graph.nodes[kind.symbol].count
        gone = np.zeros(numbers.size, dtype=bool)
        gone[old] = ~self.graph.nodes[kind.symbol].alive(numbers[old])
        removed = self._removed.get(kind.symbol)
        if removed:
            gone |= np.isin(numbers, list(removed))
        if gone.any():
            raise ServerError(f"node {numbers[gone][0]} of {kind.name!r} was removed; numbers are never used again")
        return numbers

    def _ends(self, kind: EdgeType, edge_index: Any) -> Tensor:
        if not isinstance(edge_index, Tensor) or edge_index.dim() != 2 or edge_index.size(0) != 2:
            what = list(edge_index.shape) if isinstance(edge_index, Tensor) else type(edge_index).__name__
            raise InputError(f"edge_index must be an integer tensor [2, E], got {what}")
        if edge_index.dtype not in (torch.int64, torch.int32):
            raise InputError(f"edge_index must be int64 or int32, got {edge_index.dtype}")
        pairs = edge_index.detach().long().cpu().clone()
        for end, symbol in enumerate(kind.ends):
            self.known(self.graph.naming.nodes[symbol], pairs[end])
        return pairs

    def _check_there(self, kind: EdgeType, pairs: Tensor) -> None:
        """Raise a ServerError unless there are edges between all pairs, at this point of the change."""
        here = self._pairs.get(kind.path)
        if not here:
            self.graph.edges[kind.path].match(pairs)
            return
        for source, target in zip(*pairs.tolist(), strict=True):
            known = here.get((source, target))
            if known is False:
                raise ServerError(
                    f"there is no edge from node {source} to node {target}: this change removes it before"
                )
            if known is None:
                self.graph.edges[kind.path].match(torch.tensor([[source], [target]]))

    # What it does ----------------------------------------------------------------------------------------------------

    def touched(self) -> Touched:
        """Return what differs after the change; edges are looked up in the graph before it."""
        touched = Touched()
        for step in self.steps:
            if step.what == "update_nodes":
                for path, value in step.values.items():
                    old = step.ids < self.graph.nodes[step.of].count
                    differs = np.ones(step.ids.size, dtype=bool)
                    before = self.graph.nodes[step.of].read(path, step.ids[old])
                    differs[old] = differing(before, value[torch.from_numpy(np.flatnonzero(old))])
                    touched.add_rows(path, step.ids[differs])
            elif step.what in ("add_nodes", "remove_nodes"):
                for path in self.graph.naming.nodes[step.of].inputs:
                    touched.add_rows(path, step.ids)
                if step.what == "remove_nodes":
                    self._touch_edges_of(step, touched)
            else:
                ends = step.pairs.numpy()
                touched.add_edges(step.of, (different(ends[0]), different(ends[1])))
        return touched

    def _touch_edges_of(self, step: Step, touched: Touched) -> None:
        for path, kind in self.graph.naming.edges.items():
            table = self.graph.edges[path]
            for end, symbol in enumerate(kind.ends):
                if symbol == step.of:
                    known = step.ids[step.ids < (table.num_sources, table.num_targets)[end]]
                    around = table.around(known, end)
                    both = (known, different(around.others))
                    touched.add_edges(path, both if end == 0 else (both[1], both[0]))

    def apply(self) -> None:
        """Change the graph."""
        for step in self.steps:
            _APPLY[step.what](self.graph, step)

    def encoded(self) -> bytes:
        """All steps as bytes."""
        return b"".join(encoded(step) for step in self.steps)

    @classmethod
    def decoded(cls, graph: ServedGraph, data: bytes) -> Change:
        """Return the change whose bytes these are."""
        change = cls(graph)
        stream = io.BytesIO(data)
        while stream.tell() < len(data):
            change.steps.append(decoded(stream))
        return change


def as_numbers(ids: Any, name: str) -> Ids:
    """Return numbers of nodes as a flat int64 array."""
    if isinstance(ids, Tensor):
        ids = ids.detach().cpu().numpy()
    numbers = np.asarray(ids)
    if numbers.size == 0:
        return NONE
    if numbers.dtype.kind not in "iu" or numbers.ndim > 1:
        raise InputError(
            f"{name} must be integers in one dimension, got {numbers.dtype} of shape {list(numbers.shape)}"
        )
    return numbers.reshape(-1).astype(np.int64)


def _node_values(kind: NodeType, x: Any, name: str) -> dict[str, Tensor]:
    """Return rows of arguments by path, checked."""
    if isinstance(x, Mapping):
        unknown = [key for key in x if key not in kind.inputs]
        if unknown:
            raise InputError(f"nodes of {kind.name!r} have no argument '{unknown[0]}', but {', '.join(kind.inputs)}")
        given = dict(x)
    elif len(kind.inputs) == 1:
        given = {next(iter(kind.inputs)): x}
    else:
        raise InputError(
            f"nodes of {kind.name!r} have several arguments: pass a dictionary of {', '.join(kind.inputs)}"
        )
    return {path: checked_rows(value, path, kind.inputs[path]).clone() for path, value in given.items()}


def _edge_values(kind: EdgeType, values: Mapping[str, Any], pairs: Tensor, all_of_them: bool) -> dict[str, Tensor]:
    unknown = [name for name in values if name not in kind.values]
    if unknown:
        known = ", ".join(kind.values) or "no values"
        raise InputError(f"edges of {kind.name!r} have no value '{unknown[0]}', but {known}")
    missing = [name for name in kind.values if name not in values] if all_of_them else []
    if missing:
        raise InputError(f"edges of {kind.name!r} need a value '{missing[0]}', one row per edge")
    checked = {name: checked_rows(value, name, kind.values[name][1]).clone() for name, value in values.items()}
    for name, value in checked.items():
        if value.size(0) != pairs.size(1):
            raise InputError(f"{name} has {value.size(0)} rows for {pairs.size(1)} edges")
    return checked


def _add_nodes(graph: ServedGraph, step: Step) -> None:
    graph.nodes[step.of].add(dict(step.values))
    for path, kind in graph.naming.edges.items():
        if step.of in kind.ends:
            graph.edges[path].grow(*(graph.nodes[end].count for end in kind.ends))


def _remove_nodes(graph: ServedGraph, step: Step) -> None:
    for path, kind in graph.naming.edges.items():
        for end, symbol in enumerate(kind.ends):
            if symbol == step.of:
                graph.edges[path].remove(graph.edges[path].of_nodes(step.ids, end))
    graph.nodes[step.of].remove(step.ids)


def _update_edges(graph: ServedGraph, step: Step) -> None:
    rowptr, ids = graph.edges[step.of].match(step.pairs)
    pair = torch.from_numpy(np.repeat(np.arange(step.pairs.size(1)), np.diff(rowptr)))
    graph.edges[step.of].set_values(ids, {name: value[pair] for name, value in step.values.items()})


_APPLY: Mapping[str, Any] = {
    "add_nodes": _add_nodes,
    "remove_nodes": _remove_nodes,
    "update_nodes": lambda graph, step: graph.nodes[step.of].update(step.ids, dict(step.values)),
    "add_edges": lambda graph, step: graph.edges[step.of].add(step.pairs, step.values),
    "remove_edges": lambda graph, step: graph.edges[step.of].remove(graph.edges[step.of].find(step.pairs)),
    "update_edges": _update_edges,
}
