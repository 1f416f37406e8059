"""Find aggregations of messages, factors per edge that scale messages, and softmax over the edges of a target."""

from __future__ import annotations

from dataclasses import dataclass

import torch_geometric.utils as pyg
from torch import Tensor, fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.compiled.calls import PRODUCTS

#: Reductions for which sorting the edges pays, by PyG's names and torch's.
REDUCTION_NAMES = {"sum": "sum", "add": "sum", "mean": "mean", "max": "max", "amax": "max", "min": "min", "amin": "min"}


@dataclass(frozen=True)
class Aggregation:
    """``scatter(messages, index, 0, count, reduce)``: ``index`` holds the targets, ``count`` is their number."""

    messages: fx.Node
    index: fx.Node
    count: fx.Node | int
    reduce: str


def aggregation(flow: Dataflow, node: fx.Node) -> Aggregation | None:
    """Return a node as an aggregation of rows into a stated number of targets; None for everything else."""
    if node.target is not pyg.scatter:
        return None
    names = ("src", "index", "dim", "dim_size", "reduce")
    arguments = dict(zip(names, node.args, strict=False)) | node.kwargs
    messages, index, count = arguments["src"], arguments["index"], arguments.get("dim_size")
    reduce = REDUCTION_NAMES.get(str(arguments.get("reduce", "sum")))
    if not isinstance(messages, fx.Node) or not isinstance(index, fx.Node) or reduce is None:
        return None
    if not isinstance(count, fx.Node | int) or messages not in flow.axes or index not in flow.axes:
        return None
    value = flow.values[messages][0]
    assert isinstance(value, Tensor)
    dim = arguments.get("dim", 0)
    if not isinstance(dim, int) or dim % value.dim() or len(flow.axes[index].sizes) != 1:
        return None
    return Aggregation(messages, index, count, reduce) if value.is_floating_point() else None


@dataclass(frozen=True)
class Scaled:
    """A product per edge: ``value [E, ..]`` times ``factor``, which is one number per edge, or per edge and head."""

    value: fx.Node
    factor: fx.Node


def scaled_per_edge(flow: Dataflow, product: fx.Node) -> list[Scaled]:
    """Return the ways to read a node as a value scaled per edge: none, one, or both operands as the factor."""
    if product.target not in PRODUCTS or len(product.args) != 2 or product.kwargs:
        return []
    return [
        Scaled(value, factor)
        for value, factor in (product.args, product.args[::-1])
        if isinstance(value, fx.Node) and isinstance(factor, fx.Node) and value in flow.axes and factor in flow.axes
        # Otherwise the value is broadcast along channels of the factor.
        if flow.axes[value].pairs == flow.axes[product].pairs and _is_per_edge(flow, factor, product)
    ]


def _is_per_edge(flow: Dataflow, factor: fx.Node, product: fx.Node) -> bool:
    """Whether a factor is one number per edge, or one per edge and head, in the dtype of the product."""
    operand, result = flow.axes[factor], flow.axes[product]
    if len(operand.sizes) != len(result.sizes) or operand.pairs[0] != result.pairs[0] or operand.sizes[0] is not None:
        return False
    if None in operand.sizes[1:] or flow.values[factor][0].dtype != flow.values[product][0].dtype:  # type: ignore[attr-defined]
        return False
    heads = len(operand.sizes) == 3 and operand.sizes[1] == result.sizes[1] and operand.sizes[2] == 1
    return operand.count == 1 or heads


def softmax_index(flow: Dataflow, node: fx.Node) -> fx.Node | None:
    """Return the index of a softmax over edges; None for other nodes and forms."""
    if node.target is not pyg.softmax or set(node.kwargs) - {"num_nodes", "dim", "ptr", "index"}:
        return None
    arguments = dict(zip(("src", "index", "ptr", "num_nodes", "dim"), node.args, strict=False)) | node.kwargs
    index = arguments.get("index")
    dim = arguments.get("dim", 0)
    over_rows = node in flow.axes and isinstance(dim, int) and dim % len(flow.axes[node].sizes) == 0
    by_index = over_rows and isinstance(arguments.get("src"), fx.Node) and arguments.get("ptr") is None
    return index if by_index and isinstance(index, fx.Node) and node.args else None
