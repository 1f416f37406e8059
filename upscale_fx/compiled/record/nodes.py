"""Nodes of a graph as data: for pickles, and for fused graphs, which keep the nodes they were fused from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx


@dataclass(frozen=True)
class NodeRecord:
    """One node, with the attributes of ``fx.Node``; stand-ins replace nodes and memory formats in its arguments."""

    op: str
    name: str
    target: Any
    args: Any
    kwargs: Any
    meta: dict[str, Any]

    def copied(self) -> NodeRecord:
        """Return the record with a copy of ``meta``, for a graph that may change it."""
        return replace(self, meta=dict(self.meta))


class _Reference:
    """Stands for a node in recorded arguments, by its position in the graph."""

    __slots__ = ("place",)

    def __init__(self, place: int) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return _Reference, (self.place,)


@dataclass(frozen=True)
class _Format:
    """Stands for one of torch's memory formats, which the protocol of ``torch.save`` cannot store."""

    name: str


def record_nodes(graph: fx.Graph) -> tuple[NodeRecord, ...]:
    """Record all nodes of a graph, in order; the records share ``meta`` with the nodes."""
    place = {node: i for i, node in enumerate(graph.nodes)}

    def refer(leaf: fx.Node | torch.memory_format) -> _Reference | _Format:
        return _Reference(place[leaf]) if isinstance(leaf, fx.Node) else _Format(str(leaf).removeprefix("torch."))

    kinds = (fx.Node, torch.memory_format)
    return tuple(
        NodeRecord(
            node.op,
            node.name,
            node.target,
            _map(node.args, kinds, refer),
            _map(node.kwargs, kinds, refer),
            node.meta,
        )
        for node in graph.nodes
    )


def graph_of(records: Sequence[NodeRecord]) -> fx.Graph:
    """Make a graph from recorded nodes."""
    graph = fx.Graph()
    nodes: list[fx.Node] = []

    def resolve(leaf: _Reference | _Format) -> fx.Node | torch.memory_format:
        return nodes[leaf.place] if isinstance(leaf, _Reference) else getattr(torch, leaf.name)

    kinds = (_Reference, _Format)
    for record in records:
        args, kwargs = _map(record.args, kinds, resolve), _map(record.kwargs, kinds, resolve)
        node = graph.create_node(record.op, record.target, args, kwargs, record.name)
        node.meta = record.meta
        nodes.append(node)
    return graph


def copied_graph(graph: fx.Graph) -> fx.Graph:
    """Return a copy of a graph, with the same calls and names."""
    new = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        copied = new.create_node(node.op, node.target, name=node.name)
        # Set afterwards, because create_node would map over its arguments once more.
        if node.args:
            copied.args = fx.node.map_arg(node.args, nodes.__getitem__)
        if node.kwargs:
            copied.kwargs = fx.node.map_arg(node.kwargs, nodes.__getitem__)
        copied.meta.update(node.meta)
        nodes[node] = copied
    return new


def _map(value: Any, kind: tuple[type, ...], function: Callable[[Any], Any]) -> Any:
    """Map a function over the leaves of some types in nested arguments; FX's own map does not know ``_Reference``."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(v, kind, function) for v in value))
    if isinstance(value, tuple | list):  # FX's own list and tuple types cannot be pickled
        sequence = tuple if isinstance(value, tuple) else list
        return sequence(_map(v, kind, function) for v in value)
    if isinstance(value, dict):
        return {k: _map(v, kind, function) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(*(_map(v, kind, function) for v in (value.start, value.stop, value.step)))
    return value
