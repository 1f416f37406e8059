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
from upscale_fx.analysis.aggregations import aggregation, scaled_per_edge
from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.sorted_edges import gathered

#: By the node of the targets: where the edges of each begin, and their order.
SortedTargets = dict[fx.Node, tuple[Tensor, Tensor]]


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

    def run(self, x: Tensor, values: Mapping[fx.Node, Any], structure: SortedTargets) -> Tensor:
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
    for scaled in scaled_per_edge(flow, end.messages):
        rows, value, weight = gathered(flow, scaled.value), scaled.value, scaled.factor
        if rows is None or len(value.users) > 1 or flow.values[weight][0].dtype == torch.bfloat16:  # type: ignore[attr-defined]
            continue
        return Propagation(value, end.messages, node, rows.x, rows.index, weight, end.index, end.count, end.reduce)
    return None
