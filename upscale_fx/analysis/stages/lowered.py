"""Functions of PyG that read degrees, written out: it must show that an edge reads the degrees of both its ends.

Each does what PyG's own function does, operation by operation, so that results are the same bit for bit.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import (
    add_remaining_self_loops,
    add_self_loops,
    get_laplacian,
    remove_self_loops,
    scatter,
)

#: Writes a call of a function into the graph.
Call = Callable[..., Any]


def ones_of_edges(edge_index: Tensor, dtype: torch.dtype | None) -> Tensor:
    """One number per edge, ``[E]``: the weight of edges that have none."""
    return torch.ones((edge_index.size(1),), dtype=dtype, device=edge_index.device)


def inverse_root(degree: Tensor) -> Tensor:
    """``degree ** -0.5``, 0 for a degree of 0."""
    root = degree.pow(-0.5)
    return root.masked_fill(root == float("inf"), 0)


def inverse(degree: Tensor) -> Tensor:
    """``1 / degree``, 0 for a degree of 0."""
    result = 1.0 / degree
    return result.masked_fill(result == float("inf"), 0)


def _gcn_norm(
    call: Call,
    edge_index: Any,
    edge_weight: Any = None,
    num_nodes: Any = None,
    improved: bool = False,
    add_self_loops: bool = True,
    flow: str = "source_to_target",
    dtype: Any = None,
) -> Any:
    """Symmetric normalisation, as in Kipf and Welling, "Semi-supervised classification with GCNs" (ICLR 2017)."""
    if num_nodes is None:
        return None
    if add_self_loops:
        looped = call(add_remaining_self_loops, edge_index, edge_weight, 2.0 if improved else 1.0, num_nodes)
        edge_index = call(operator.getitem, looped, 0)
        edge_weight = None if edge_weight is None else call(operator.getitem, looped, 1)
    if edge_weight is None:
        edge_weight = call(ones_of_edges, edge_index, dtype)
    row, col = call(operator.getitem, edge_index, 0), call(operator.getitem, edge_index, 1)
    target = col if flow == "source_to_target" else row
    degree = call(scatter, edge_weight, target, 0, num_nodes, "sum")
    return edge_index, _scaled(call, call(inverse_root, degree), edge_weight, row, col)


def _scaled(call: Call, factor: fx.Node, weight: Any, row: fx.Node, col: fx.Node) -> fx.Node:
    """``factor[row] * weight * factor[col]``."""
    first = call(operator.mul, call(torch.index_select, factor, 0, row), weight)
    result: fx.Node = call(operator.mul, first, call(torch.index_select, factor, 0, col))
    return result


def _laplacian(
    call: Call,
    edge_index: Any,
    edge_weight: Any = None,
    normalization: str | None = None,
    dtype: Any = None,
    num_nodes: Any = None,
) -> Any:
    """The Laplacian of a graph, see ``torch_geometric.utils.get_laplacian``."""
    if num_nodes is None:
        return None
    removed = call(remove_self_loops, edge_index, edge_weight)
    edge_index = call(operator.getitem, removed, 0)
    edge_weight = call(ones_of_edges, edge_index, dtype) if edge_weight is None else call(operator.getitem, removed, 1)
    row, col = call(operator.getitem, edge_index, 0), call(operator.getitem, edge_index, 1)
    degree = call(scatter, edge_weight, row, 0, num_nodes, "sum")
    if normalization is None:
        looped = call(add_self_loops, edge_index, num_nodes=num_nodes)
        return call(operator.getitem, looped, 0), call(torch.cat, (call(operator.neg, edge_weight), degree), 0)
    if normalization == "sym":
        weight = _scaled(call, call(inverse_root, degree), edge_weight, row, col)
    else:
        factor = call(torch.index_select, call(inverse, degree), 0, row)
        weight = call(operator.mul, factor, edge_weight)
    looped = call(add_self_loops, edge_index, call(operator.neg, weight), fill_value=1.0, num_nodes=num_nodes)
    return call(operator.getitem, looped, 0), call(operator.getitem, looped, 1)


#: By function what writes it out: it gets a function that writes a call, and the operands; None if it cannot.
LOWERED: Mapping[Any, Callable[..., Any]] = {gcn_norm: _gcn_norm, get_laplacian: _laplacian}
