"""Topological sort: the execution order of a graph."""

from __future__ import annotations

from collections.abc import Collection
from heapq import heapify, heappop, heappush

from torch import fx

from upscale_fx.compiled.check_inputs import check_inputs


def sort_topologically(graph: fx.Graph, early: Collection[fx.Node] = ()) -> bool:
    """Sort nodes after the nodes they read: those in ``early`` as soon as possible, the others in their present order.

    Returns False if nodes read each other in a circle, else True.
    """
    nodes = list(graph.nodes)
    place = {node: (_rank(node, early), number) for number, node in enumerate(nodes)}
    open_inputs = {node: len(node.all_input_nodes) for node in nodes}
    ready = [place[node] for node in nodes if not open_inputs[node]]
    heapify(ready)
    last: fx.Node | None = None
    placed = 0
    while ready:
        node = nodes[heappop(ready)[1]]
        if last is not None:
            last.append(node)
        last, placed = node, placed + 1
        for user in node.users:
            open_inputs[user] -= 1
            if not open_inputs[user]:
                heappush(ready, place[user])
    return placed == len(nodes)


def _rank(node: fx.Node, early: Collection[fx.Node]) -> int:
    """Return the priority of a node: arguments and the check of inputs come first."""
    if node.op == "placeholder" or node.target is check_inputs:
        return 0
    return 1 if node in early else 2
