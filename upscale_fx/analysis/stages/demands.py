"""Where an operation of a flat graph reads its operands: at the node that is computed, at its neighbours, at its edges.

A stage computes some nodes, the *targets*. A value with rows of nodes is read at the targets (``own``) or at the other
ends of their edges (``far``); one with rows of edges at the edges that end in the targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import fx
from torch_geometric.utils import softmax

from upscale_fx.analysis.row_symbols import describe
from upscale_fx.analysis.stages.kinds import Kind, Kinds
from upscale_fx.errors import ServerError
from upscale_fx.operators.attention import attend, edge_softmax
from upscale_fx.operators.edges import edge_add, edge_additive_dot
from upscale_fx.operators.linear import edge_dot, spmm


@dataclass(frozen=True)
class Space:
    """The rows at which a value is read.

    Attributes:
        where: at the targets, at the other ends of their edges, or at their edges.
        of: of targets, the symbol of the nodes; else the path of the edges.
        end: of edges, the row of ``edge_index`` that names the targets.
    """

    where: Literal["own", "far", "edges"]
    of: str
    end: int = 1


#: Of fused operators, where each operand is read; sources may have rows of edges themselves.
_FUSED: dict[Any, tuple[str, ...]] = {
    spmm: ("edges", "edges", "edges", "far"),
    edge_dot: ("edges", "edges", "own", "far"),
    edge_add: ("edges", "edges", "own", "far"),
    edge_additive_dot: ("edges", "edges", "own", "far"),
    attend: ("edges", "edges", "edges", "far"),
    edge_softmax: ("edges", "edges"),
}


def nodes_in(kinds: Kinds, space: Space) -> str:
    """The symbol of the nodes that a space has rows of."""
    return space.of if space.where == "own" else kinds.edges[space.of].ends[1 - space.end]


def combines_edges(kinds: Kinds, node: fx.Node) -> bool:
    """Whether an operation combines rows of edges at nodes."""
    return kinds.kinds[node].rows == "nodes" and any(kinds.kinds[n].rows == "edges" for n in node.all_input_nodes)


def demands(kinds: Kinds, node: fx.Node, space: Space) -> Iterator[tuple[fx.Node, Space]]:
    """Yield the operands of an operation whose result is read at some rows, and where they are read.

    Raises:
        ServerError: the operation cannot be done row by row.
    """
    relation = _edges_read(kinds, node, space)
    roles = _roles(kinds, node, relation)
    for operand in node.all_input_nodes:
        where = kinds.kinds[operand]
        if where.rows == "graph":
            raise ServerError(whole_graph(kinds, operand))
        if where.rows == "edges":
            yield operand, _same_edges(node, where, relation)
        elif where.rows == "count":
            yield operand, _count_space(kinds, where, space, relation)
        elif where.rows == "nodes":
            yield operand, _nodes_space(kinds, node, operand, space, relation, roles.get(operand))


def _edges_read(kinds: Kinds, node: fx.Node, space: Space) -> Space | None:
    """The edges at which an operation reads rows of edges; None if it reads none."""
    if kinds.kinds[node].rows != "nodes":
        return space
    return _relation(kinds, node) if combines_edges(kinds, node) else None


def _roles(kinds: Kinds, node: fx.Node, relation: Space | None) -> dict[fx.Node, str]:
    """Where a fused operator reads its operands."""
    roles = _FUSED.get(node.target)
    if roles is None:
        return {}
    if relation is not None and kinds.kinds[cast(fx.Node, node.args[0])].end != relation.end:
        raise _wrong_end(kinds, node, relation)
    return {n: role for n, role in zip(node.args, roles, strict=False) if isinstance(n, fx.Node)}


def _same_edges(node: fx.Node, where: Kind, relation: Space | None) -> Space:
    if relation is None or where.of != relation.of:
        others = f" together with those of '{relation.of}'" if relation else ""
        raise ServerError(f"{describe(node)} reads edges of '{where.of}'{others}")
    return relation


def _nodes_space(
    kinds: Kinds, node: fx.Node, operand: fx.Node, space: Space, relation: Space | None, role: str | None
) -> Space:
    """Where an operation reads rows of nodes."""
    of = kinds.kinds[operand].of
    if relation is None:
        if of != nodes_in(kinds, space):
            raise ServerError(f"{describe(node)} reads nodes of another type, row by row")
        return space
    role = role or _end_read(kinds, node, relation)
    if role == "own" and of != kinds.edges[relation.of].ends[relation.end]:
        role = "far"
    read = Space("own", of) if role == "own" else Space("far", relation.of, relation.end)
    if of != nodes_in(kinds, read):
        raise ServerError(f"{describe(node)} reads nodes that are at no end of its edges")
    return read


def _relation(kinds: Kinds, node: fx.Node) -> Space:
    """The edges whose rows an operation combines, and the end at which it does."""
    ends = {
        (kinds.kinds[n].of, kinds.kinds[n].end)
        for n in node.all_input_nodes
        if kinds.kinds[n].rows == "edges" and kinds.kinds[n].end is not None
    }
    if node.target in _FUSED:
        first = kinds.kinds[cast(fx.Node, node.args[0])]
        ends = {(first.of, first.end)}
    if len(ends) != 1:
        raise ServerError(
            f"{describe(node)} combines rows of edges at nodes, but {'by no index' if not ends else 'by both ends'} of "
            f"edge_index, so the edges of one node are not known"
        )
    path, end = ends.pop()
    assert end is not None
    return Space("edges", path, end)


def _end_read(kinds: Kinds, node: fx.Node, relation: Space) -> str:
    """The end of its edges at which an operation reads rows of nodes; self loops are rows of the targets."""
    if kinds.kinds[node].rows == "nodes":
        return "own"  # what edges are added to
    ends = {kinds.kinds[n].end for n in node.all_input_nodes if kinds.kinds[n].rows == "edges"} - {None}
    return "own" if not ends or ends == {relation.end} else "far"


def _count_space(kinds: Kinds, count: Kind, space: Space, relation: Space | None) -> Space:
    if relation is not None:
        own = count.of == kinds.edges[relation.of].ends[relation.end]
        return Space("own", count.of) if own else Space("far", relation.of, relation.end)
    return space


def check_group(kinds: Kinds, node: fx.Node, relation: Space) -> None:
    """Raise a ServerError if a softmax over edges is not over those of the targets."""
    ends = {kinds.kinds[n].end for n in node.all_input_nodes if kinds.kinds[n].rows == "edges"} - {None}
    if node.target is softmax and ends and ends != {relation.end}:
        raise _wrong_end(kinds, node, relation)


def _wrong_end(kinds: Kinds, node: fx.Node, relation: Space) -> ServerError:
    return ServerError(
        f"{describe(node)} goes over the edges of one end, and what reads it over those of the other, so one node "
        f"needs the edges of all its neighbours"
    )


def whole_graph(kinds: Kinds, node: fx.Node) -> str:
    """Say why a value is not one row per node or edge."""
    sources = {kinds.kinds[n].rows for n in node.all_input_nodes} & {"nodes", "edges", "count"}
    what = "all nodes" if "nodes" in sources else "all edges" if "edges" in sources else "the size of the graph"
    return (
        f"{describe(node)} depends on {what} (pooling, statistics over the graph such as GraphNorm, neighbours by "
        f"features), so single nodes cannot be answered; call the compiled model itself, on the whole graph"
    )
