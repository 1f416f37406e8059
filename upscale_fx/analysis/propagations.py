"""Message passing that a replay runs in one go: gather, scale, aggregate, without anything per edge and channel.

Calibration runs the unfused graph, whose nodes are what least-squares problems are about. Where a value gathered by
edge, perhaps times a number per edge (and head), is aggregated and read by nobody else, nobody looks at it: the
operator of the fused graph computes the aggregate from the nodes. On graphs with thousands of raw features the gathered
values would not fit into memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from upscale_fx import operators
from upscale_fx.analysis.aggregations import aggregation
from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.sorted_edges import gathered
from upscale_fx.compiled.calls import PRODUCTS

#: By the node of the targets: where the edges of each begin, and their order.
Structure = dict[fx.Node, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Propagation:
    """One gather, scale, aggregate.

    Attributes:
        gather: the call that gathers rows of ``x`` by ``source``.
        scale: the call that multiplies them by ``weight``; None without.
        aggregate: the call that reduces them by ``target`` to ``count`` rows.
    """

    gather: fx.Node
    scale: fx.Node | None
    aggregate: fx.Node
    x: fx.Node
    source: fx.Node
    weight: fx.Node | None
    target: fx.Node
    count: fx.Node | int
    reduce: str

    @property
    def inner(self) -> tuple[fx.Node, ...]:
        """The calls whose results are not needed."""
        return (self.gather,) if self.scale is None else (self.gather, self.scale)

    def run(self, x: Tensor, values: Mapping[fx.Node, Any], structure: Structure) -> Tensor:
        """The aggregate of ``x`` in place of the gathered value; ``structure`` keeps sorted edges for other calls."""
        target: Tensor = values[self.target]
        count = values[self.count] if isinstance(self.count, fx.Node) else self.count
        if self.target not in structure:
            structure[self.target] = operators.csr(target.contiguous(), int(count))
        rowptr, order = structure[self.target]
        weight = None
        if self.weight is not None:
            weight = values[self.weight]
            weight = weight.reshape(len(weight), -1)[order]
            weight = weight[:, 0] if weight.shape[1] == 1 else weight
        return operators.spmm(rowptr, values[self.source][order], weight, x, self.reduce)


def find_propagations(flow: Dataflow) -> dict[fx.Node, Propagation]:
    """All of a graph, by their aggregates."""
    found = {node: _propagation(flow, node) for node in flow.nodes}
    return {node: one for node, one in found.items() if one is not None}


def _propagation(flow: Dataflow, node: fx.Node) -> Propagation | None:
    end = aggregation(flow, node)
    if end is None or len(end.messages.users) != 1 or len(flow.axes[end.messages].sizes) < 2:
        return None
    plain = gathered(flow, end.messages)
    if plain is not None:
        return Propagation(
            end.messages, None, node, plain.x, plain.index, None, end.index, end.count, end.reduce
        )  # fmt: skip
    if end.messages.target not in PRODUCTS or len(end.messages.args) != 2 or end.messages.kwargs:
        return None
    for value, weight in (end.messages.args, end.messages.args[::-1]):
        rows = gathered(flow, value)
        if rows is None or not isinstance(value, fx.Node) or not isinstance(weight, fx.Node):
            continue
        same = flow.axes[value].pairs == flow.axes[end.messages].pairs
        if same and len(value.users) == 1 and _per_edge(flow, weight, end.messages):
            return Propagation(value, end.messages, node, rows.x, rows.index, weight, end.index, end.count, end.reduce)
    return None


def _per_edge(flow: Dataflow, weight: fx.Node, product: fx.Node) -> bool:
    """Whether a factor is one number per edge, or one per edge and head."""
    if weight not in flow.axes or len(flow.axes[weight].sizes) != len(flow.axes[product].sizes):
        return False
    given, result = flow.axes[weight], flow.axes[product]
    if given.sizes[0] is not None or given.pairs[0] != result.pairs[0] or None in given.sizes[1:]:
        return False
    heads = len(given.sizes) == 3 and given.sizes[1] == result.sizes[1] and given.sizes[2] == 1
    dtypes = {getattr(flow.values[node][0], "dtype", None) for node in (weight, product)}
    return (given.count == 1 or heads) and len(dtypes) == 1 and torch.bfloat16 not in dtypes
