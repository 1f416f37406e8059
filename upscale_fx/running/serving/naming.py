"""What a served graph consists of, by the names that users know: types of nodes and edges, and their values."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from upscale_fx.analysis.stages.kinds import Edges, Kinds
from upscale_fx.analysis.stages.run import leaves
from upscale_fx.compiled.inputs import RowCount, TensorSpec
from upscale_fx.compiled.module import CompiledGNN, inputs_of
from upscale_fx.errors import InputError

#: The last key of a path such as ``x_dict['user']``.
_KEY = re.compile(r"^(?P<name>\w+)\[(?P<key>.*)\]$")


@dataclass(frozen=True)
class NodeType:
    """One type of nodes.

    Attributes:
        symbol: of its rows.
        name: as in ``x_dict['user']``; the name of its first argument where arguments are no dictionaries.
        inputs: by path, its arguments with a row per node.
    """

    symbol: str
    name: Any
    inputs: Mapping[str, TensorSpec]


@dataclass(frozen=True)
class EdgeType:
    """One type of edges.

    Attributes:
        path: of the argument that holds them.
        name: a key such as ``('user', 'rates', 'movie')``, or the name of the argument.
        ends: the symbols of sources and targets.
        values: by the name that users give it, the path and description of each argument with a row per edge.
    """

    path: str
    name: Any
    ends: tuple[str, str]
    values: Mapping[str, tuple[str, TensorSpec]]


@dataclass(frozen=True)
class Naming:
    """All types of a graph, by symbol and by path."""

    nodes: Mapping[str, NodeType]
    edges: Mapping[str, EdgeType]

    def node_type(self, name: Any) -> NodeType:
        """The type of that name; None where there is only one."""
        found: NodeType = _chosen(name, list(self.nodes.values()), "node_type", "nodes")
        return found

    def edge_type(self, name: Any) -> EdgeType:
        """The type of that name; None where there is only one."""
        found: EdgeType = _chosen(name, list(self.edges.values()), "edge_type", "edges")
        return found


def _chosen(name: Any, types: list[Any], argument: str, what: str) -> Any:
    names = [known.name for known in types]
    if name is None and len(types) == 1:
        return types[0]
    found = [known for known in types if name is not None and name in (known.name, getattr(known, "path", None))]
    if not found:
        how = (
            f"there are {what} of several types, say which: " if name is None else f"there is no {argument}={name!r}: "
        )
        raise InputError(f"{how}{argument} is one of {', '.join(map(repr, names))}")
    return found[0]


def naming_of(gm: CompiledGNN, kinds: Kinds) -> Naming:
    """Return the types of nodes and edges that a compiled model's arguments have."""
    specs = {path: spec for path, spec in leaves(inputs_of(gm).arguments) if isinstance(spec, TensorSpec | RowCount)}
    nodes: dict[str, NodeType] = {}
    for symbol in (symbol for symbol in inputs_of(gm).symbols() if symbol[0] == "N"):
        rows = {p: s for p, s in specs.items() if isinstance(s, TensorSpec) and s.axes and s.axes[0] == symbol}
        rows = {p: s for p, s in rows.items() if s.role != "edges"}
        if not rows:
            raise InputError(
                f"no argument of the model has a row per node of {_nodes_text(symbol, kinds.edges)}, so nodes cannot "
                f"be added or changed: a server needs a model that takes features of nodes"
            )
        nodes[symbol] = NodeType(symbol, _name(next(iter(rows))), rows)
    edges = {}
    for path, edge in kinds.edges.items():
        first = next(p for p, e in kinds.edges.items() if e.symbol == edge.symbol)
        values = {}
        for p, s in specs.items():
            if (
                isinstance(s, TensorSpec)
                and s.axes
                and s.axes[0] == edge.symbol
                and s.role != "edges"
                and first == path
            ):
                values[_argument(p).removesuffix("_dict")] = (p, s)
        edges[path] = EdgeType(path, _name(path), edge.ends, values)
    return Naming(nodes, edges)


def _argument(path: str) -> str:
    return path.split("[", 1)[0]


def _name(path: str) -> Any:
    """The key of a path where it has one, else the path."""
    match = _KEY.match(path)
    if match is None:
        return path
    try:
        return ast.literal_eval(match["key"])
    except (ValueError, SyntaxError):
        return path


def _nodes_text(symbol: str, edges: Mapping[str, Edges]) -> str:
    touching = [path for path, edge in edges.items() if symbol in edge.ends]
    return f"the type at the ends of {', '.join(touching)}" if touching else "one type"
