"""Gather, scale, aggregate becomes one operator: ``spmm(rowptr, col, weight, x, reduce)``.

A message is fused iff it is (1) a row of ``x`` per edge, or (2) such a row times one number per edge, or per edge and
head. Other messages (not linear in ``x_j``) are still computed; only their aggregation walks the sorted rows. Fused
messages are never held in memory for all edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from upscale_fx import operators
from upscale_fx.analysis.aggregations import Aggregation, aggregation, scaled_per_edge, softmax_index
from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.analysis.sorted_edges import Gathered, SortedEdges, gathered, sorted_edges
from upscale_fx.compiled.calls import RESHAPES
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
    """Fuse messages and softmax over sorted edges in place; returns how many calls it replaced."""
    edges = sorted_edges(gm.graph)
    if not edges:
        return 0
    flow = analyse(gm)
    return sum(fuse(flow, edges, node) for node in flow.nodes)


def fuse(flow: Dataflow, edges: Mapping[fx.Node, SortedEdges], node: fx.Node) -> bool:
    """Replace an aggregation, or a softmax over the edges of a target, by its operator; False for other nodes."""
    graph = flow.module.graph
    aggregated = aggregation(flow, node)
    if aggregated is not None and _is_fusable(flow, edges, aggregated):
        with graph.inserting_before(node):
            message = _message(flow, aggregated)
            args = (edges[aggregated.index].rowptr, message.col, message.weight, message.x, aggregated.reduce)
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


def _is_fusable(flow: Dataflow, edges: Mapping[fx.Node, SortedEdges], aggregated: Aggregation) -> bool:
    """Whether the rows that are aggregated are the sorted edges, and have channels."""
    same = aggregated.index in edges and edges[aggregated.index].count == aggregated.count
    return same and len(flow.axes[aggregated.messages].sizes) > 1


def _message(flow: Dataflow, aggregated: Aggregation) -> Message:
    source = _gathered_from_nodes(flow, aggregated.messages, aggregated.index)
    if source is not None:
        return Message(source.x, source.index)
    for scaled in scaled_per_edge(flow, aggregated.messages):
        source = _gathered_from_nodes(flow, scaled.value, aggregated.index)
        if source is not None:
            return Message(source.x, source.index, _as_weight(flow, scaled.factor))
    return Message(aggregated.messages)


def _gathered_from_nodes(flow: Dataflow, node: fx.Node, row: fx.Node) -> Gathered | None:
    """A value as a gather by the source's index; None if it is not one."""
    gather = gathered(flow, node)
    return gather if gather is not None and gather.index is not row else None


def _as_weight(flow: Dataflow, factor: fx.Node) -> fx.Node:
    """A factor per edge as ``[E]`` or ``[E, H]``."""
    count = flow.axes[factor].count
    shape = (-1, count) if count > 1 else (-1,)
    base = factor
    while base.op == "call_method" and base.target in RESHAPES and isinstance(base.args[0], fx.Node):
        base = base.args[0]
    sizes = flow.axes[base].sizes if base in flow.axes else ()
    if sizes == (None, count)[: len(shape)]:
        return base
    graph = flow.module.graph
    reshaped = graph.call_method("reshape", (factor, *shape))
    reshaped.meta = dict(factor.meta)
    return reshaped
