"""PyG's row operations: aggregation by target node and softmax over the edges of a node."""

from __future__ import annotations

import torch_geometric.utils as pyg
from torch import fx

from upscale_fx.relations import Pointwise, Relation
from upscale_fx.rules.registry import Operation, register


@register(pyg.scatter)
def scatter(op: Operation) -> Relation | None:
    """``scatter(src [E, ..], index [E], dim, dim_size, reduce)``: rows are combined, each position by itself."""
    return _rows(op, "never" if op.argument(4, "reduce", default="sum") == "mul" else "all")


@register(pyg.segment)
def segment(op: Operation) -> Relation | None:
    """``segment(src [E, ..], ptr [N + 1], reduce)``."""
    return _rows(op, "all")


@register(pyg.softmax)
def edge_softmax(op: Operation) -> Relation | None:
    """``softmax(src [E, H], index)``: over the edges of one node; zeros become shares."""
    return _rows(op, "never")


def _rows(op: Operation, zero: str) -> Relation | None:
    source = op.argument(0, "src")
    given = op.axes_of(source)
    if not isinstance(source, fx.Node) or given is None or given.shape != op.axes.shape:
        return None
    index = op.argument(1, "index", "ptr")
    axes = op.axes_of(index)
    if axes is not None and axes.count > 1:
        return None  # an index per channel
    flow = op.aligned(source)
    return Pointwise((flow,), zero) if flow is not None else None  # type: ignore[arg-type]
