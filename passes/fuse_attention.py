"""Attention without a vector per edge: logits from the nodes' own vectors, softmax and weighted sum in one operator.

It replaces five patterns: (1) ``leaky_relu(a[row] + b[col])`` (GAT's logits), (2) the dot product
of two gathered vectors (graph transformers, SuperGAT), (3) a vector times ``leaky_relu(l[row] + r[col])`` summed over
channels (GATv2), (4) ``spmm`` with the edge softmax as its weight, which becomes ``attend``, and (5) a vector per head
times the nodes' own values, summed over channels, which becomes a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult
from torch.nn import functional as F

from upscale_fx import operators
from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.analysis.sorted_edges import SortedEdges, gathered, sorted_edges
from upscale_fx.compiled import functions
from upscale_fx.compiled.calls import PRODUCTS, SUMS
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.passes.base import edited


@dataclass(frozen=True)
class FuseAttention:
    """Fuse logits, edge softmax and aggregation of attention layers; exact."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited(gm, fuse_attention)


def fuse_attention(gm: CompiledGNN) -> int:
    """Replace the patterns in place; returns how many."""
    edges = sorted_edges(gm.graph)
    if not edges:
        return 0
    flow = analyse(gm)
    count = remove_idle_dropout(gm.graph)
    for pattern in (additive_logits, dot_logits, vector_logits, attention, head_products):
        count += sum(pattern(flow, edges, node) for node in flow.nodes)
    return count


@dataclass(frozen=True)
class Ends:
    """What an edge reads at its two ends: a row of ``left`` at its target, of ``right`` at its source."""

    left: fx.Node
    right: fx.Node
    col: fx.Node
    edges: SortedEdges


def remove_idle_dropout(graph: fx.Graph) -> int:
    """Remove dropouts of probability 0, which do nothing in any mode."""
    idle = [node for node in graph.nodes if node.target is F.dropout and node.kwargs.get("p") == 0.0]
    for node in idle:
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    return len(idle)


def ends_of(
    flow: Dataflow, edges: Mapping[fx.Node, SortedEdges], node: object, joins: tuple[object, ...], rank: int
) -> Ends | None:
    """The two gathered values, ``[N, ..]`` and ``[M, ..]`` of equal widths, that a node joins; None for other nodes."""
    if not isinstance(node, fx.Node) or node.target not in joins or len(node.args) != 2 or node.kwargs:
        return None
    for first, second in (node.args, node.args[::-1]):
        left, right = gathered(flow, first), gathered(flow, second)
        if left is None or right is None or left.index not in edges or right.index is left.index:
            continue
        a, b = flow.axes[left.x].sizes, flow.axes[right.x].sizes
        if a[1:] == b[1:] and len(a) == rank and None not in a[1:]:
            return Ends(left.x, right.x, right.index, edges[left.index])
    return None


def slope_of(node: object) -> tuple[fx.Node, float] | None:
    """The operand of a leaky ReLU and its slope; None for other nodes."""
    if not isinstance(node, fx.Node) or node.target not in (F.leaky_relu, "relu", torch.relu, F.relu):
        return None
    x = node.args[0] if node.args else None
    if not isinstance(x, fx.Node):
        return None
    if node.target is not F.leaky_relu:
        return x, 0.0
    slope = node.args[1] if len(node.args) > 1 else node.kwargs.get("negative_slope", 0.01)
    return (x, float(slope)) if isinstance(slope, int | float) else None


def additive_logits(flow: Dataflow, edges: Mapping[fx.Node, SortedEdges], node: fx.Node) -> bool:
    """``leaky_relu(a[row] + b[col])`` of a number per head."""
    activation = slope_of(node)
    ends = ends_of(flow, edges, activation[0], SUMS, 2) if activation is not None else None
    if activation is None or ends is None:
        return False
    _put(flow, node, operators.edge_add, (ends.edges.rowptr, ends.col, ends.left, ends.right, activation[1]))
    return True


def summed(flow: Dataflow, node: fx.Node) -> fx.Node | None:
    """What a node sums over its last axis; None for other nodes."""
    if node.op != "call_method" or node.target != "sum" or not isinstance(node.args[0], fx.Node):
        return None
    if set(node.kwargs) - {"dim"} or len(node.args) + len(node.kwargs) != 2 or node.args[0] not in flow.axes:
        return None
    dim = node.args[1] if len(node.args) > 1 else node.kwargs["dim"]
    dim = dim[0] if isinstance(dim, list | tuple) and len(dim) == 1 else dim
    last = len(flow.axes[node.args[0]].sizes) - 1
    return node.args[0] if isinstance(dim, int) and dim in (-1, last) else None


def dot_logits(flow: Dataflow, edges: Mapping[fx.Node, SortedEdges], node: fx.Node) -> bool:
    """``(q[row] * k[col]).sum(-1)``, with heads or without."""
    product = summed(flow, node)
    if product is None:
        return False
    rank = len(flow.axes[product].sizes)
    ends = ends_of(flow, edges, product, PRODUCTS, rank) if rank in (2, 3) else None
    if ends is None:
        return False
    if rank == 3:
        _put(flow, node, operators.edge_dot, (ends.edges.rowptr, ends.col, ends.left, ends.right))
        return True
    with node.graph.inserting_before(node):
        wide = [node.graph.call_method("unsqueeze", (x, 1)) for x in (ends.left, ends.right)]
        dots = node.graph.call_function(operators.edge_dot, (ends.edges.rowptr, ends.col, *wide))
    _put(flow, node, "squeeze", (dots, 1), "call_method")
    return True


def vector_logits(flow: Dataflow, edges: Mapping[fx.Node, SortedEdges], node: fx.Node) -> bool:
    """``(leaky_relu(l[row] + r[col]) * vector).sum(-1)``."""
    product = summed(flow, node)
    if product is None or product.target not in PRODUCTS or len(product.args) != 2:
        return False
    for activated, vector in (product.args, product.args[::-1]):
        activation = slope_of(activated)
        ends = ends_of(flow, edges, activation[0], SUMS, 3) if activation is not None else None
        if activation is None or ends is None or not isinstance(vector, fx.Node):
            continue
        shape = flow.axes[ends.left].sizes[1:]
        if flow.axes[vector].sizes not in (shape, (1, *shape)):
            continue
        with node.graph.inserting_before(node):
            per_head = node.graph.call_method("reshape", (vector, *shape))
        args = (ends.edges.rowptr, ends.col, ends.left, ends.right, per_head, activation[1])
        _put(flow, node, operators.edge_additive_dot, args)
        return True
    return False


def head_products(flow: Dataflow, edges: Mapping[fx.Node, SortedEdges], node: fx.Node) -> bool:
    """``(x * vector).sum(-1)`` of values ``[N, H, C]`` and one vector per head."""
    product = summed(flow, node)
    if product is None or product.target not in PRODUCTS or len(product.args) != 2 or product.kwargs:
        return False
    for x, vector in (product.args, product.args[::-1]):
        if not isinstance(x, fx.Node) or not isinstance(vector, fx.Node) or vector not in flow.axes:
            continue
        sizes = flow.axes[x].sizes if x in flow.axes else ()
        if len(sizes) != 3 or sizes[0] is not None or None in sizes[1:] or sizes != flow.axes[product].sizes:
            continue
        if flow.axes[vector].sizes in (sizes[1:], (1, *sizes[1:])):
            _put(flow, node, functions.head_dot, (x, vector))
            return True
    return False


def attention(flow: Dataflow, edges: Mapping[fx.Node, SortedEdges], node: fx.Node) -> bool:
    """``spmm`` whose weights are the softmax of the same edges."""
    if node.target is not operators.spmm or node.args[4] != "sum":
        return False
    rowptr, col, weight, x, _ = node.args
    if not isinstance(weight, fx.Node) or weight.target is not operators.edge_softmax or weight.args[0] is not rowptr:
        return False
    if len(weight.users) > 1:  # another call reads the weights, so they are computed anyway
        return False
    _put(flow, node, operators.attend, (rowptr, col, weight.args[1], x))
    return True


def _put(
    flow: Dataflow,
    node: fx.Node,
    target: str | Callable[..., object],
    args: tuple[object, ...],
    op: str = "call_function",
) -> None:
    with node.graph.inserting_before(node):
        new = node.graph.create_node(op, target, args)  # type: ignore[arg-type]
    flow.substitute(node, new)
