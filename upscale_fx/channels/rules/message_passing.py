"""Rules for PyG's row operations: aggregation by target node, softmax over the edges of a node."""

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
    """``scatter(src [E, ..], index [E], dim, dim_size, reduce)``: combines rows, each position by itself."""
    return _rows(op, "never" if op.argument(4, "reduce", default="sum") == "mul" else "all")


@register(pyg.segment)
def segment(op: Operation) -> Relation | None:
    """``segment(src [E, ..], ptr [N + 1], reduce)``."""
    return _rows(op, "all")


@register(pyg.softmax)
def edge_softmax(op: Operation) -> Relation | None:
    """``softmax(src [E, H], index)`` over the edges of a node: zero does not stay zero."""
    return _rows(op, "never")


@register(QuantileAggregation)
def quantile(op: Operation) -> Relation | None:
    """Median or quantile of the rows of a group, each channel by itself; several quantiles at once are a barrier."""
    return _rows(op, "all" if op.module is not None and op.module.fill_value == 0 else "never", "x")


@register("index_copy", torch.index_copy, "index_add", torch.index_add)
def index_into(op: Operation) -> Relation | None:
    """``x.index_add(dim, index, source)``: rows of ``source`` replace, or are added to, rows of ``x``."""
    x, dim, source = op.argument(0, "input"), op.argument(1, "dim"), op.argument(3, "source")
    target, other = op.axes_of(x), op.axes_of(source)
    if target is None or other is None or target.shape != other.shape or target.shape[dim] > 1:
        return None
    flows = [op.aligned(x), op.aligned(source)]
    return Pointwise(tuple(f for f in flows if f is not None), "all") if all(flows) and x is not source else None


@register(functions.set_item)
def set_item(op: Operation) -> Relation | None:
    """``x[rows] = value``: replaces some rows, position by position."""
    x, key, value = op.argument(0), op.argument(1), op.argument(2)
    target, other = op.axes_of(x), op.axes_of(value)
    keys = key if isinstance(key, tuple) else (key,)
    if target is None or any(target.shape[axis] > 1 for axis in range(len(keys))) or None in keys or Ellipsis in keys:
        return None  # a channel axis is written to
    kept = op.aligned(x)
    if kept is None or not isinstance(value, fx.Node):
        return Pointwise((kept,), "all" if value == 0 else "never") if kept is not None else None
    written = op.aligned(value) if other is not None else None
    return Pointwise((kept, written), "all") if written is not None and x is not value else None


def _rows(op: Operation, zero: str, name: str = "src") -> Relation | None:
    source = op.argument(0, name)
    operand = op.axes_of(source)
    if not isinstance(source, fx.Node) or operand is None or operand.shape != op.axes.shape:
        return None
    index = op.argument(1, "index", "ptr")
    axes = op.axes_of(index)
    if axes is not None and axes.count > 1:
        return None  # an index per channel
    flow = op.aligned(source)
    return Pointwise((flow,), zero) if flow is not None else None  # type: ignore[arg-type]
