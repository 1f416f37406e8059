"""Aggregations of messages, and softmax over the edges of a target, as calls."""

from __future__ import annotations

from dataclasses import dataclass

import torch_geometric.utils as pyg
from torch import Tensor, fx

from upscale_fx.analysis.dataflow import Dataflow

#: How messages may be combined for sorting to pay.
REDUCTIONS = {"sum": "sum", "add": "sum", "mean": "mean", "max": "max", "amax": "max", "min": "min", "amin": "min"}


@dataclass(frozen=True)
class Aggregation:
    """``scatter(messages, index, 0, count, reduce)``: its target index and how many targets there are."""

    messages: fx.Node
    index: fx.Node
    count: fx.Node | int
    reduce: str


def aggregation(flow: Dataflow, node: fx.Node) -> Aggregation | None:
    """A node as an aggregation of rows into as many targets as it says; None for everything else."""
    if node.target is not pyg.scatter:
        return None
    names = ("src", "index", "dim", "dim_size", "reduce")
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    messages, index, count = given["src"], given["index"], given.get("dim_size")
    reduce = REDUCTIONS.get(str(given.get("reduce", "sum")))
    if not isinstance(messages, fx.Node) or not isinstance(index, fx.Node) or reduce is None:
        return None
    if not isinstance(count, fx.Node | int) or messages not in flow.axes or index not in flow.axes:
        return None
    value = flow.values[messages][0]
    assert isinstance(value, Tensor)
    dim = given.get("dim", 0)
    if not isinstance(dim, int) or dim % value.dim() or len(flow.axes[index].sizes) != 1:
        return None
    return Aggregation(messages, index, count, reduce) if value.is_floating_point() else None


def softmax_index(flow: Dataflow, node: fx.Node) -> fx.Node | None:
    """The index of a softmax over edges; None for other nodes and forms."""
    if node.target is not pyg.softmax or set(node.kwargs) - {"num_nodes", "dim", "ptr", "index"}:
        return None
    given = dict(zip(("src", "index", "ptr", "num_nodes", "dim"), node.args, strict=False)) | node.kwargs
    index = given.get("index")
    dim = given.get("dim", 0)
    over_rows = node in flow.axes and isinstance(dim, int) and dim % len(flow.axes[node].sizes) == 0
    plain = over_rows and isinstance(given.get("src"), fx.Node) and given.get("ptr") is None
    return index if plain and isinstance(index, fx.Node) and node.args else None
