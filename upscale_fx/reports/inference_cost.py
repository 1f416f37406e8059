"""Inference cost per node: multiply-adds over the full graph, and of one target node with sampled neighbours.

Contractions (``analysis.size.macs_of``), recurrent modules and aggregations count, with one multiply-add per edge and
channel of an aggregation. Activations, norms, biases and softmax do not count. This is the "#kMACs/node" of Zhou et
al., "Accelerating Large Scale Real-Time GNN Inference using Channel Pruning" (VLDB 2021, arXiv:2105.04528). Operations
are counted in the model's own order: an aggregation before a linear layer has the layer's input channels, one after it
the layer's output channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.analysis.hops import Edges, data, find_edges, hops_needed
from upscale_fx.analysis.row_symbols import LOOPS, describe, row_symbols
from upscale_fx.analysis.size import counts_macs, macs_of
from upscale_fx.channels.relations import Relation
from upscale_fx.channels.relations.products import Recurrence
from upscale_fx.channels.rules.registry import call_of
from upscale_fx.compiled.module import CompiledGNN, unfused
from upscale_fx.compiled.numbers import is_number
from upscale_fx.errors import InputError


@dataclass(frozen=True)
class InferenceCost:
    """Multiply-adds per node.

    Attributes:
        degree: edges per node of the full graph, without self loops that the model adds.
        full: full-graph inference, divided by the number of nodes.
        full_aggregation: how many of ``full`` are aggregation.
        fanouts: neighbours per node at hop 0, 1, ...; empty without batched inference.
        batched: batched inference of one target node; None without fan-outs.
        batched_aggregation: how many of ``batched`` are aggregation; None without fan-outs.
        by_hop: ``batched`` by the distance from the target at which the work is done; work on an edge counts where
            the edge ends.
    """

    degree: float
    full: float
    full_aggregation: float
    fanouts: tuple[float, ...] = ()
    batched: float | None = None
    batched_aggregation: float | None = None
    by_hop: tuple[float, ...] = ()

    def __str__(self) -> str:
        lines = [_line("full graph", f"degree {self.degree:g}", self.full, self.full_aggregation)]
        if self.batched is not None and self.batched_aggregation is not None:
            fanouts = "fan-outs " + ", ".join(f"{fanout:g}" for fanout in self.fanouts)
            lines.append(_line("batched", fanouts, self.batched, self.batched_aggregation))
        return "\n".join(lines)


def _line(title: str, asked: str, total: float, aggregation: float) -> str:
    return f"{title:<10}  {total / 1e3:,.2f} kMACs/node ({aggregation / 1e3:,.2f} aggregation; {asked})"


@dataclass(frozen=True)
class _Work:
    """The multiply-adds of an operation for every row of a kind."""

    node: fx.Node
    rows: str
    macs: int
    aggregates: bool


def cost_per_node(module: nn.Module, *, degree: float, fanouts: Sequence[float] | None = None) -> InferenceCost:
    """Multiply-adds per node of a traced or compiled model, in full-graph and in batched inference.

    Full-graph: a row of nodes counts once, a row of edges ``degree`` times, and once more where the model adds self
    loops. Work on values without rows (computed weights, say) is done once per call and does not count.

    Batched: there is one target node at hop 0, ``fanouts[0]`` nodes at hop 1, ``fanouts[0] * fanouts[1]`` at hop 2 and
    so on, all distinct: a tree, as a neighbour sampler draws it. Walking backwards from the output, reading the row of
    a neighbour adds a hop; reading the row of the aggregating node adds none. A value is computed, and counts, at each
    hop at which it is needed. So the first layer of a two-layer network runs for ``1 + fanouts[0]`` nodes: the target,
    which the self branch of the second layer reads, and its neighbours. At hop h every layer aggregates over
    ``fanouts[h]`` edges; a self loop that the model adds is one more edge, which reads the node itself.

    Args:
        module: the result of ``trace``, ``compact``, ``optimize`` or ``prune``. A fused graph is counted as it was
            before fusing.
        degree: edges per node; an undirected edge is stored twice and counts twice.
        fanouts: neighbours of a node at hop 0, 1, ...; one number for every hop that the output depends on.

    Raises:
        InputError: not a traced graph; a degree or fan-out that is not a positive number; not one fan-out per hop; no
            operation along edges; rows whose number does not follow from the degree (a dense adjacency, pairs of
            edges, pooled graphs, several types of nodes or edges); and in batched inference values over the whole
            graph (GraphNorm, nearest neighbours by features).
    """
    if not isinstance(module, CompiledGNN):
        raise InputError(
            f"cost_per_node() counts a traced graph, got {type(module).__name__}; pass upscale_fx.trace(model)"
        )
    degree = _positive(degree, "degree")
    flow = analyse(unfused(module))
    edges = find_edges(flow)
    if not edges:
        raise InputError("no operation of this graph goes along edges, so it has no cost per edge; see report()")
    work = list(_all_work(flow, edges))
    counts = [item.macs * _rows_per_node(item, degree) for item in work]
    aggregation = sum(count for count, item in zip(counts, work, strict=True) if item.aggregates)
    full = sum(counts)
    if fanouts is None:
        return InferenceCost(degree, full, aggregation)
    numbers = tuple(_positive(fanout, f"fanouts[{hop}]") for hop, fanout in enumerate(fanouts))
    hops = hops_needed(flow, edges)
    depth = _depth(edges, hops)
    if len(numbers) != depth:
        raise InputError(f"the output depends on nodes {depth} hops away, so fanouts takes {depth} numbers, "
                         f"got {len(numbers)}: {list(numbers)}")  # fmt: skip
    by_hop, batched_aggregation = _batched(work, hops, numbers)
    return InferenceCost(degree, full, aggregation, numbers, sum(by_hop), batched_aggregation, tuple(by_hop))


def _positive(number: Any, name: str) -> float:
    if is_number(number) and 0 < float(number) < math.inf:  # NaN fails both comparisons
        return float(number)
    raise InputError(f"{name} must be a positive number of edges per node, got {number!r}")


def _all_work(flow: Dataflow, edges: Edges) -> Iterator[_Work]:
    """Contractions, recurrent modules and aggregations; raises InputError where their rows cannot be counted."""
    kept, called = data(flow), set()
    for node in flow.nodes:
        relation = flow.relations.get(node)
        if relation is not None and counts_macs(flow, node):
            rows = _countable_rows(flow, node, relation)
            if rows != "call":
                yield _Work(node, rows, macs_of(flow, node), False)
        elif isinstance(relation, Recurrence):
            call, _ = call_of(node, flow.values)  # outputs and states are nodes of their own
            if call not in called:
                called.add(call)
                yield _Work(call, _countable_rows(flow, node, relation), _recurrent_macs(flow, relation), False)
        for source in edges.aggregations.get(node, ()):
            if source in kept:  # degrees and normalisation are structure
                yield _Work(node, row_symbols(flow, source), flow.axes[source].count, True)


def _countable_rows(flow: Dataflow, node: fx.Node, relation: Relation) -> str:
    """The kind of the rows of a result; InputError unless its rows and those of all operands can be counted."""
    for value in (node, *relation.reads):
        rows = row_symbols(flow, value)
        if "*" in rows:
            raise InputError(
                f"{describe(node)} works on rows of kind {rows}, which no degree counts: pairs of nodes or edges, a "
                f"dense adjacency, padded groups, or a second kind of nodes; message passing along the edges of one "
                f"kind of nodes can be counted"
            )
    return row_symbols(flow, node)


def _recurrent_macs(flow: Dataflow, relation: Recurrence) -> int:
    """Multiply-adds of a recurrent module per row: each step of the sequence uses every weight once."""
    steps = flow.axes[relation.x].count // len(relation.columns)
    module = flow.module.get_submodule(relation.module)
    return steps * sum(p.numel() for p in module.parameters() if p.dim() > 1)


def _rows_per_node(item: _Work, degree: float) -> float:
    """The number of rows per node of the full graph."""
    kind = item.rows.lstrip("0123456789")
    times = int(item.rows.removesuffix(kind) or 1)
    if kind == "N":
        return times
    if kind in LOOPS:
        return times * (degree + LOOPS[kind])
    raise InputError(
        f"{describe(item.node)} has one row for each of {item.rows}, neither nodes nor edges, so its cost per node is "
        f"not known; report() counts it per row"
    )


def _depth(edges: Edges, hops: Mapping[fx.Node, set[int]]) -> int:
    """The number of hops to the farthest node that is read."""
    crossings = [node for node in (*edges.gathers, *edges.aggregations) if node in hops]
    if not crossings:
        raise InputError("the output reads nothing along edges, so there are no hops to sample; leave fanouts out")
    return 1 + max(max(hops[node]) for node in crossings)


def _batched(
    work: Sequence[_Work], hops: Mapping[fx.Node, set[int]], fanouts: Sequence[float]
) -> tuple[list[float], float]:
    """Multiply-adds of one target node at every hop, and how many of all of them are aggregation."""
    by_hop, aggregation = [0.0] * (len(fanouts) + 1), 0.0
    for item in work:
        for hop in hops.get(item.node, ()):
            count = item.macs * math.prod(fanouts[:hop])
            if item.rows in LOOPS:
                count *= fanouts[hop] + LOOPS[item.rows]
            by_hop[hop] += count
            aggregation += count if item.aggregates else 0.0
    return by_hop, aggregation
