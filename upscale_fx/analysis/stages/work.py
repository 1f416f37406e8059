"""Multiply-adds of the operations of a flat graph, counted as ``cost_per_node`` does: products, sums over edges."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from upscale_fx.analysis.stages.flat import add_product
from upscale_fx.analysis.stages.kinds import Kinds
from upscale_fx.compiled import functions
from upscale_fx.operators.edges import edge_additive_dot
from upscale_fx.operators.kernels import memory
from upscale_fx.operators.linear import edge_dot

_PRODUCTS: frozenset[Any] = frozenset(
    {
        memory.linear, add_product, functions.head_dot, nn.functional.linear, nn.functional.bilinear, operator.matmul,
        torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.einsum, torch.baddbmm, "matmul", "mm", "bmm",
    }
)  # fmt: skip
#: Products of the two ends of every edge; the results lack the axis that was summed.
_OF_BOTH_ENDS: dict[Any, int] = {edge_dot: 3, edge_additive_dot: 3}


def macs_of_row(kinds: Kinds, node: fx.Node) -> float:
    """Multiply-adds per row of a result: the numbers in the weights of a product; 0 for other operations."""
    if node.op == "call_module":
        module = kinds.module.get_submodule(str(node.target))
        return float(sum(p.numel() for p in module.parameters() if p.dim() > 1)) * _steps(kinds, node, module)
    if node.target in _OF_BOTH_ENDS:
        right = node.args[_OF_BOTH_ENDS[node.target]]
        return float(width_of(kinds, right)) if isinstance(right, fx.Node) else 0.0
    if node.target not in _PRODUCTS:
        return 0.0
    weights = [
        value
        for n in node.all_input_nodes
        if kinds.kinds[n].rows == "constant" and isinstance(value := kinds.values[n][0], Tensor) and value.dim() >= 2
    ]
    if not weights:  # of two values with rows
        return float(max((width_of(kinds, n) for n in node.all_input_nodes), default=0))
    return float(sum(weight.numel() for weight in weights))


def macs_of_edge(kinds: Kinds, node: fx.Node) -> float:
    """Multiply-adds per edge of an operation that combines rows of edges: one per number; 0 for degrees and norms."""
    return float(width_of(kinds, node)) if node in kinds.data and kinds.kinds[node].rows == "nodes" else 0.0


def width_of(kinds: Kinds, node: fx.Node) -> int:
    """Numbers in a row of a value."""
    value = next(leaf for leaf in pytree.tree_leaves(kinds.values[node][0]) if isinstance(leaf, Tensor))
    return max(1, value.numel() // max(1, value.size(0)))


def _steps(kinds: Kinds, node: fx.Node, module: nn.Module) -> int:
    """Steps of the sequences of a recurrent module: each uses every weight once."""
    if not isinstance(module, nn.RNNBase):
        return 1
    value = kinds.values[node.args[0]][0]  # type: ignore[index]
    return int(value.size(1)) if isinstance(value, Tensor) and value.dim() == 3 else 1
