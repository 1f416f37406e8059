"""Sort edges by target, so that aggregation walks rows one after another (CSR) instead of scattering.

The order is computed once per graph (``operators.csr``, a stable counting sort) and applied where edge-level values
begin: to indices, edge weights and edge features. Values computed from them are then sorted too, and aggregations do
not depend on the order. A value that a call reads in the original order (an output, say) is put back into that order.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from upscale_fx import operators
from upscale_fx.analysis.aggregations import Aggregation, aggregation
from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.row_order import Order, order_of
from upscale_fx.analysis.sorted_edges import gathered
from upscale_fx.compiled import functions
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.topology import sort_topologically
from upscale_fx.passes.base import edited_flow


@dataclass(frozen=True)
class SortEdges:
    """Sort edges by target wherever messages gathered from nodes are aggregated; exact."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited_flow(gm, lambda flow: sort_edges(flow.module.graph, list(edge_groups(flow))))


@dataclass
class EdgeGroup:
    """Values of one edge set that depend on each other.

    Attributes:
        members: edge-level values that follow the order of the edges, in the order of discovery. Not a set: its
            order, and with it the order of the graph, would differ between processes.
        roots: the values that members are computed from, with the members and exits that read each.
        outside: members, with the nodes that read them in the original order.
        targets: how many aggregations read the members, by target index and number of targets.
        gathers: whether any member is gathered from nodes.
    """

    members: dict[fx.Node, None] = field(default_factory=dict)
    roots: dict[fx.Node, set[fx.Node]] = field(default_factory=dict)
    outside: dict[fx.Node, set[fx.Node]] = field(default_factory=dict)
    targets: Counter[tuple[fx.Node, fx.Node | int]] = field(default_factory=Counter)
    gathers: bool = False


def edge_groups(flow: Dataflow) -> Iterator[EdgeGroup]:
    """Groups in which sorting pays: messages gathered from nodes that are aggregated by one index."""
    seen: set[fx.Node] = set()
    for node in flow.nodes:
        aggregated = aggregation(flow, node)
        if (
            aggregated is None
            or aggregated.index.target is functions.in_order  # sorted already
            or aggregated.messages in seen
            or not _is_edge_level(flow, aggregated.messages, aggregated.index)
        ):
            continue
        group = _grow(flow, aggregated)
        seen.update(group.members)
        if group.gathers and group.targets:
            yield group


def _is_edge_level(flow: Dataflow, node: fx.Node, index: fx.Node) -> bool:
    """Whether a value has a row per edge."""
    axes = flow.axes.get(node)
    return (
        axes is not None and bool(axes.sizes) and axes.sizes[0] is None and axes.pairs[0] == flow.axes[index].pairs[0]
    )


def _grow(flow: Dataflow, start: Aggregation) -> EdgeGroup:
    """The group of all edge-level values that are connected with these messages."""
    group = EdgeGroup()
    waiting = [start.messages]
    while waiting:
        node = waiting.pop()
        if node in group.members or node in group.roots:
            continue
        operands = [s for s in node.all_input_nodes if _is_edge_level(flow, s, start.index)]
        value = flow.values[node][0]
        follows = isinstance(value, Tensor) and value.is_floating_point() and node is not start.index
        if not follows or order_of(flow, node, operands) is not Order.FOLLOWS:
            group.roots[node] = set()
            continue
        group.members[node] = None
        group.gathers |= gathered(flow, node) is not None
        waiting += operands
        waiting += [user for user in node.users if _is_edge_level(flow, user, start.index)]
    for node in group.members:
        _connect(flow, group, node, start.index)
    return group


def _connect(flow: Dataflow, group: EdgeGroup, node: fx.Node, index: fx.Node) -> None:
    """Record which nodes read a member, and the other values that these need in the same order."""
    for source in node.all_input_nodes:
        if source in group.roots:
            group.roots[source].add(node)
    for user in node.users:
        if user in group.members:
            continue
        operands = [s for s in user.all_input_nodes if _is_edge_level(flow, s, index)]
        if order_of(flow, user, operands) is not Order.IGNORES:
            group.outside.setdefault(node, set()).add(user)
            continue
        for source in operands:
            if source not in group.members:
                group.roots.setdefault(source, set()).add(user)
        aggregated = aggregation(flow, user)
        if aggregated is not None:
            group.targets[aggregated.index, aggregated.count] += 1


def sort_edges(graph: fx.Graph, groups: list[EdgeGroup]) -> bool:
    """Insert the sorting of each group; the same target index is sorted once.

    Returns whether there are groups and every order is known before it is needed (not so if targets are computed from
    messages).
    """
    calls: dict[tuple[object, ...], fx.Node] = {}
    end = next(node for node in reversed(graph.nodes) if node.op == "output")

    def once(op: str, target: Any, *args: Any) -> fx.Node:
        key = (target, *args)
        if key not in calls:
            with graph.inserting_before(end):
                calls[key] = graph.create_node(op, target, args)
        return calls[key]

    for group in groups:
        (index, count), _ = group.targets.most_common(1)[0]
        order = once("call_function", operator.getitem, once("call_function", operators.csr, index, count), 1)
        for root, readers in group.roots.items():
            for reader in readers:
                reader.replace_input_with(root, once("call_function", functions.in_order, root, order))
        for member, readers in group.outside.items():
            back = once("call_function", functions.inverse_order, order)
            for reader in readers:
                reader.replace_input_with(member, once("call_method", "index_select", member, 0, back))
    return bool(groups) and sort_topologically(graph, early=set(calls.values()))
