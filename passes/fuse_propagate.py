"""Gather, scale, aggregate becomes one operator: ``spmm(rowptr, col, weight, x, reduce)``.

A message is fused iff it is (1) a row of ``x`` per edge, or (2) that times a number per edge, or per edge and head.
Other messages (not linear in ``x_j``) stay as they are, and only their aggregation walks the sorted rows. No fused
message is ever held in memory for all edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from upscale_fx import operators
from upscale_fx.analysis.aggregations import Aggregation, aggregation, softmax_index
from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.analysis.sorted_edges import Gathered, SortedEdges, gathered, sorted_edges
from upscale_fx.compiled.calls import PRODUCTS, RESHAPES
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.passes.base import edited


@dataclass(frozen=True)
class FusePropagate:
    """Fuse message passing over sorted edges; exact."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited(gm, fuse_propagate)


@dataclass(frozen=True)
class Message:
    """What every edge sends: row ``col`` of ``x`` times ``weight``; without ``col`` row ``e`` of ``x`` itself."""

    x: fx.Node
    col: fx.Node | None = None
    weight: fx.Node | None = None


def fuse_propagate(gm: CompiledGNN) -> int:
    """Fuse messages and softmax over sorted edges in place; returns how many calls went."""
    edges = sorted_edges(gm.graph)
    if not edges:
        return 0
    flow = analyse(gm)
    return sum(fuse(flow, edges, node) for node in flow.nodes)


def fuse(flow: Dataflow, edges: Mapping[fx.Node, SortedEdges], node: fx.Node) -> bool:
    """Replace an aggregation, or a softmax over the edges of a target, by its operator; whether it was one."""
    graph = flow.module.graph
    found = aggregation(flow, node)
    if found is not None and _is_fusable(flow, edges, found):
        with graph.inserting_before(node):
            sent = _message(flow, found)
            args = (edges[found.index].rowptr, sent.col, sent.weight, sent.x, found.reduce)
            flow.substitute(node, graph.call_function(operators.spmm, args))
        return True
    index = softmax_index(flow, node)
    if index in edges and len(flow.axes[node].sizes) <= 2:
        assert index is not None
        with graph.inserting_before(node):
            call = graph.call_function(operators.edge_softmax, (edges[index].rowptr, node.args[0]))
            flow.substitute(node, call)
        return True
    return False


def _is_fusable(flow: Dataflow, edges: Mapping[fx.Node, SortedEdges], found: Aggregation) -> bool:
    """Whether rows with channels are combined in the order in which they are sorted."""
    same = found.index in edges and edges[found.index].count == found.count
    return same and len(flow.axes[found.messages].sizes) > 1


def _message(flow: Dataflow, found: Aggregation) -> Message:
    sent = _gathered_from_nodes(flow, found.messages, found.index)
    if sent is not None:
        return Message(sent.x, sent.index)
    for value, scale in _factors(flow, found.messages):
        sent = _gathered_from_nodes(flow, value, found.index)
        if flow.axes[value].pairs != flow.axes[found.messages].pairs:
            continue  # the weight has channels that the value is repeated along
        weight = _per_edge(flow, scale, found.messages) if sent is not None else None
        if sent is not None and weight is not None:
            return Message(sent.x, sent.index, weight)
    return Message(found.messages)


def _gathered_from_nodes(flow: Dataflow, node: fx.Node, row: fx.Node) -> Gathered | None:
    """A value gathered by the source's index."""
    found = gathered(flow, node)
    return found if found is not None and found.index is not row else None


def _factors(flow: Dataflow, node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """The two factors of a product, either way round, value first."""
    if node.target not in PRODUCTS or len(node.args) != 2 or node.kwargs:
        return []
    a, b = node.args
    if not isinstance(a, fx.Node) or not isinstance(b, fx.Node) or a not in flow.axes or b not in flow.axes:
        return []
    return [(a, b), (b, a)]


def _per_edge(flow: Dataflow, scale: fx.Node, product: fx.Node) -> fx.Node | None:
    """A factor as ``[E]`` or ``[E, H]``; None if it differs between channels, or is no factor of every edge."""
    given, result = flow.axes[scale], flow.axes[product]
    if len(given.sizes) != len(result.sizes) or given.pairs[0] != result.pairs[0] or given.sizes[0] is not None:
        return None
    if any(size is None for size in given.sizes[1:]) or flow.values[scale][0].dtype != flow.values[product][0].dtype:  # type: ignore[attr-defined]
        return None
    heads = len(given.sizes) == 3 and given.sizes[1] == result.sizes[1] and given.sizes[2] == 1
    if given.count != 1 and not heads:
        return None
    shape = (-1, given.count) if heads and given.count > 1 else (-1,)
    base = scale
    while base.op == "call_method" and base.target in RESHAPES and isinstance(base.args[0], fx.Node):
        base = base.args[0]
    kept = flow.axes[base].sizes if base in flow.axes else ()
    if kept == (None, given.count)[: len(shape)]:
        return base
    graph = flow.module.graph
    reshaped = graph.call_method("reshape", (scale, *shape))
    reshaped.meta = dict(scale.meta)
    return reshaped
