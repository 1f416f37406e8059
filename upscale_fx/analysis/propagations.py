"""Find gather, scale and aggregate in an unfused graph, which a replay runs as one operator.

Calibration runs the unfused graph, because its nodes are the unknowns of least-squares problems. A value gathered by
edge, perhaps times a number per edge (and head), is not needed if its only reader is an aggregation. Then the operator
of the fused graph computes the aggregate from the nodes. With thousands of raw features, the gathered values would not
fit into memory.
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

#: Node of the targets -> the first edge of each target (``rowptr``), and the order of the edges.
SortedTargets = dict[fx.Node, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Propagation:
    """One gather, scale, aggregate.

    Attributes:
        gather: the call that gathers rows of ``x`` by ``source``.
        scale: the call that multiplies them by ``weight``, if any.
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
        """The calls that need not run."""
        return (self.gather,) if self.scale is None else (self.gather, self.scale)

    def run(self, x: Tensor, values: Mapping[fx.Node, Any], structure: SortedTargets) -> Tensor:
        """Return the aggregate computed from ``x``; ``structure`` stores sorted edges for other propagations."""
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
    """Return all propagations of a graph, by the node of the aggregate."""
    propagations = {node: _propagation(flow, node) for node in flow.nodes}
    return {node: propagation for node, propagation in propagations.items() if propagation is not None}


def _propagation(flow: Dataflow, node: fx.Node) -> Propagation | None:
    reduced = aggregation(flow, node)
    if reduced is None or len(reduced.messages.users) != 1 or len(flow.axes[reduced.messages].sizes) < 2:
        return None
    unscaled = gathered(flow, reduced.messages)
    if unscaled is not None:
        return Propagation(
            reduced.messages, None, node, unscaled.x, unscaled.index, None, reduced.index, reduced.count, reduced.reduce
        )  # fmt: skip
    for scaled in scaled_per_edge(flow, reduced.messages):
        rows, value, weight = gathered(flow, scaled.value), scaled.value, scaled.factor
        if rows is None or len(value.users) > 1 or flow.values[weight][0].dtype == torch.bfloat16:  # type: ignore[attr-defined]
            continue
        return Propagation(
            value, reduced.messages, node, rows.x, rows.index, weight, reduced.index, reduced.count, reduced.reduce
        )
    return None
