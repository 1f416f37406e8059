"""``(A x) W`` or ``A (x W)``: aggregate on the side that is narrower.

Aggregation costs edges times channels. Where there are as many sources as targets, a linear layer costs the same before
and after it. So the layer goes first where it makes rows narrower, and last where it makes them wider. Only sums and
means: maxima do not commute with a product.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult
from torch.nn import functional as F

from upscale_fx import operators
from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.analysis.linear_layers import layer_of
from upscale_fx.compiled.dead_nodes import drop_dead_nodes
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.passes.base import edited


@dataclass(frozen=True)
class Reassociate:
    """Aggregate on the narrower side of a linear layer; exact."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited(gm, reassociate)


def reassociate(gm: CompiledGNN) -> int:
    """Move linear layers past their aggregations where that saves work, in place; returns the number of moves."""
    count = 0
    while moved := _move_layers(gm):  # a layer moves past several aggregations one by one
        count += moved
    return count


def _move_layers(gm: CompiledGNN) -> int:
    """Move each such linear layer past one aggregation; returns how many moved."""
    flow = analyse(gm)
    count = sum(aggregate_last(flow, node) or aggregate_first(flow, node) for node in flow.nodes)
    drop_dead_nodes(gm.graph)
    return count


def _is_linear_sum(flow: Dataflow, node: object) -> bool:
    """Whether a node sums rows ``[N, C]``, with at most one weight per edge, and as many targets as sources."""
    if not isinstance(node, fx.Node) or node.target is not operators.spmm or node not in flow.axes:
        return False
    if node.args[4] not in ("sum", "mean") or node.args[3] not in flow.axes:
        return False
    weight, x = node.args[2], node.args[3]
    if weight is not None and len(flow.axes[weight].sizes) != 1:  # type: ignore[index]
        return False
    axes = flow.axes[x]  # type: ignore[index]
    return node.args[1] is not None and len(axes.sizes) == 2 and axes.pairs[0] == flow.axes[node].pairs[0]


def aggregate_last(flow: Dataflow, node: fx.Node) -> bool:
    """``linear(spmm(x))`` becomes ``spmm(linear(x))`` where the layer narrows rows."""
    layer = layer_of(flow, node)
    if layer is None or not _is_linear_sum(flow, layer.x) or len(layer.x.users) > 1:
        return False
    wide, narrow = flow.axes[layer.x].sizes[-1], flow.axes[node].sizes[-1]
    if wide is None or narrow is None or narrow >= wide:
        return False
    rowptr, col, weight, x, reduce = layer.x.args
    with node.graph.inserting_before(node):
        product = node.graph.call_function(F.linear, (x, layer.weight))
        summed = node.graph.call_function(operators.spmm, (rowptr, col, weight, product, reduce))
        product.meta, summed.meta = dict(node.meta), dict(layer.x.meta)
        result = summed
        if layer.bias is not None:
            result = node.graph.call_function(operator.add, (summed, layer.bias))
            result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    return True


def aggregate_first(flow: Dataflow, node: fx.Node) -> bool:
    """``spmm(linear(x))`` becomes ``linear(spmm(x))`` where the layer widens rows and adds no bias."""
    if not _is_linear_sum(flow, node):
        return False
    rowptr, col, weight, product, reduce = node.args
    layer = layer_of(flow, product)
    if layer is None or layer.bias is not None or layer.x not in flow.axes or len(product.users) > 1:  # type: ignore[union-attr]
        return False
    wide, narrow = flow.axes[node].sizes[-1], flow.axes[layer.x].sizes[-1]
    if wide is None or narrow is None or narrow >= wide or len(flow.axes[layer.x].sizes) != 2:
        return False
    with node.graph.inserting_before(node):
        summed = node.graph.call_function(operators.spmm, (rowptr, col, weight, layer.x, reduce))
        result = node.graph.call_function(F.linear, (summed, layer.weight))
    summed.meta, result.meta = dict(node.meta), dict(product.meta)  # type: ignore[union-attr]
    node.replace_all_uses_with(result)
    return True
