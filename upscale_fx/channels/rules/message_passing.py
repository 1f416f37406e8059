"""PyG's row operations: aggregation by target node and softmax over the edges of a node."""

from __future__ import annotations

import torch
import torch_geometric.utils as pyg
from torch import fx
from torch_geometric.nn.aggr import QuantileAggregation

from upscale_fx.channels.relations import Pointwise, Relation
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.channels.rules.registry import register
from upscale_fx.compiled import functions


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


@register(QuantileAggregation)
def quantile(op: Operation) -> Relation | None:
    """Medians and quantiles of the rows of a group, each channel by itself; several quantiles are barriers."""
    return _rows(op, "all" if op.module is not None and op.module.fill_value == 0 else "never", "x")


@register("index_copy", torch.index_copy, "index_add", torch.index_add)
def index_into(op: Operation) -> Relation | None:
    """``x.index_add(dim, index, source)``: rows of ``source`` are put into, or added to, rows of ``x``."""
    x, dim, source = op.argument(0, "input"), op.argument(1, "dim"), op.argument(3, "source")
    given, other = op.axes_of(x), op.axes_of(source)
    if given is None or other is None or given.shape != other.shape or given.shape[dim] > 1:
        return None
    flows = [op.aligned(x), op.aligned(source)]
    return Pointwise(tuple(f for f in flows if f is not None), "all") if all(flows) and x is not source else None


@register(functions.set_item)
def set_item(op: Operation) -> Relation | None:
    """``x[rows] = value``: some rows are replaced, each position by its own."""
    x, key, value = op.argument(0), op.argument(1), op.argument(2)
    given, other = op.axes_of(x), op.axes_of(value)
    keys = key if isinstance(key, tuple) else (key,)
    if given is None or any(given.shape[axis] > 1 for axis in range(len(keys))) or None in keys or Ellipsis in keys:
        return None  # a channel axis is written to
    own = op.aligned(x)
    if own is None or not isinstance(value, fx.Node):
        return Pointwise((own,), "all" if value == 0 else "never") if own is not None else None
    flow = op.aligned(value) if other is not None else None
    return Pointwise((own, flow), "all") if flow is not None and x is not value else None


def _rows(op: Operation, zero: str, name: str = "src") -> Relation | None:
    source = op.argument(0, name)
    given = op.axes_of(source)
    if not isinstance(source, fx.Node) or given is None or given.shape != op.axes.shape:
        return None
    index = op.argument(1, "index", "ptr")
    axes = op.axes_of(index)
    if axes is not None and axes.count > 1:
        return None  # an index per channel
    flow = op.aligned(source)
    return Pointwise((flow,), zero) if flow is not None else None  # type: ignore[arg-type]
