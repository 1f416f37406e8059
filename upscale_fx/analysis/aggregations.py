"""Aggregations of messages, the numbers per edge that messages are scaled by, and softmax over a target's edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch_geometric.utils as pyg
from torch import Tensor, fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.compiled.calls import PRODUCTS

#: How messages may be combined for sorting to pay.
REDUCTION_NAMES = {"sum": "sum", "add": "sum", "mean": "mean", "max": "max", "amax": "max", "min": "min", "amin": "min"}


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
    reduce = REDUCTION_NAMES.get(str(given.get("reduce", "sum")))
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


@dataclass(frozen=True)
class Scaled:
    """A product per edge: ``value [E, ..]`` times ``factor``, one number per edge, or one per edge and head."""

    value: fx.Node
    factor: fx.Node


def scaled_per_edge(flow: Dataflow, product: fx.Node) -> list[Scaled]:
    """All readings of a node as a value scaled per edge: none, one, or both ways round."""
    if product.target not in PRODUCTS or len(product.args) != 2 or product.kwargs:
        return []
    return [
        Scaled(value, factor)
        for value, factor in (product.args, product.args[::-1])
        if isinstance(value, fx.Node) and isinstance(factor, fx.Node) and value in flow.axes and factor in flow.axes
        # Else the factor has channels that the value is repeated along.
        if flow.axes[value].pairs == flow.axes[product].pairs and _is_per_edge(flow, factor, product)
    ]


def _is_per_edge(flow: Dataflow, factor: fx.Node, product: fx.Node) -> bool:
    """Whether a factor is one number per edge, or one per edge and head, in the dtype of the product."""
    given, result = flow.axes[factor], flow.axes[product]
    if len(given.sizes) != len(result.sizes) or given.pairs[0] != result.pairs[0] or given.sizes[0] is not None:
        return False
    if None in given.sizes[1:] or flow.values[factor][0].dtype != flow.values[product][0].dtype:  # type: ignore[attr-defined]
        return False
    heads = len(given.sizes) == 3 and given.sizes[1] == result.sizes[1] and given.sizes[2] == 1
    return given.count == 1 or heads


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
