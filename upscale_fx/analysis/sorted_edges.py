"""Find sorted edges in a graph: indices that hold the targets in order, and gathers of rows by edge."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from upscale_fx import operators
from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.compiled import functions


@dataclass(frozen=True)
class SortedEdges:
    """Edges sorted by target.

    Attributes:
        order: the node with the order of the edges.
        rowptr: the node with the first edge of each target, ``[N + 1]``.
        count: the number of targets, as a node or an int.
    """

    order: fx.Node
    rowptr: fx.Node
    count: object


def sorted_edges(graph: fx.Graph) -> dict[fx.Node, SortedEdges]:
    """Return sorted edges by the node of the sorted targets; add nodes that read ``rowptr`` where there are none."""
    by_targets: dict[fx.Node, SortedEdges] = {}
    for csr in [node for node in graph.nodes if node.target is operators.csr]:
        index, count = csr.args
        order, rowptr = _element(graph, csr, 1), _element(graph, csr, 0)
        for user in order.users:
            if user.target is functions.in_order and user.args == (index, order):
                by_targets[user] = SortedEdges(order, rowptr, count)
    return by_targets


def _element(graph: fx.Graph, call: fx.Node, place: int) -> fx.Node:
    for user in call.users:
        if user.target is operator.getitem and user.args[1] == place:
            return user
    with graph.inserting_after(call):
        return graph.call_function(operator.getitem, (call, place))


@dataclass(frozen=True)
class Gathered:
    """Rows of ``x`` gathered for every edge, by the target or the source of the edge (``index``)."""

    x: fx.Node
    index: fx.Node


def gathered(flow: Dataflow, node: object) -> Gathered | None:
    """Return a node as a gather of rows; None for everything else."""
    if not isinstance(node, fx.Node) or node.kwargs:
        return None
    if node.target is operator.getitem and _is_index(flow, node.args[1]):
        arguments: tuple[object, ...] = (node.args[0], 0, node.args[1])
    elif node.target == "index_select" and node.op == "call_method" and len(node.args) == 3:
        arguments = node.args
    else:
        return None
    x, dim, index = arguments
    if not isinstance(x, fx.Node) or not isinstance(index, fx.Node) or index.op == "get_attr" or x not in flow.axes:
        return None
    sizes = flow.axes[x].sizes
    is_rows = bool(sizes) and isinstance(dim, int) and dim % len(sizes) == 0 and sizes[0] is None
    return Gathered(x, index) if is_rows else None


def _is_index(flow: Dataflow, key: object) -> bool:
    """Whether the key of ``x[key]`` is a vector of row indices, not a mask."""
    if not isinstance(key, fx.Node) or key not in flow.axes or len(flow.axes[key].sizes) != 1:
        return False
    value = flow.values[key][0]
    return isinstance(value, Tensor) and value.dtype in (torch.int64, torch.int32)
