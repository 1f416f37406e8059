"""PyTorch Geometric with a sparse adjacency matrix, set up to be as fast as possible and exact.

Some layers change the graph in every call: GCN normalises it, GAT and GATv2 add self loops. Here it is changed once,
before the calls. That is faster, and exact: on matrices PyG's own code merges parallel edges.
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GATv2Conv, GCNConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import add_self_loops, remove_self_loops

from upscale_fx.bench.graphs import Graph


def compressed(edge_index: Tensor, num_nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Edges ``[2, E]`` sorted by target: ``rowptr [N + 1]``, sources ``[E]``, and the order ``[E]`` that sorts them."""
    order = torch.argsort(edge_index[1], stable=True)
    rowptr = torch.zeros(num_nodes + 1, dtype=torch.long, device=edge_index.device)
    torch.cumsum(torch.bincount(edge_index[1], minlength=num_nodes), 0, out=rowptr[1:])
    return rowptr, edge_index[0][order], order


def sparse_matrix(edge_index: Tensor, num_nodes: int, weight: Tensor | None = None) -> Tensor:
    """The transposed adjacency matrix ``[N, N]`` in compressed rows, one value per edge, 1 without weights."""
    rowptr, source, order = compressed(edge_index, num_nodes)
    values = torch.ones(len(order), device=order.device) if weight is None else weight[order]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its sparse matrices experimental
        return torch.sparse_csr_tensor(rowptr, source, values, (num_nodes, num_nodes))


def with_adjacency(model: nn.Module, graph: Graph) -> tuple[nn.Module, Tensor]:
    """A copy of a PyG model, and the matrix that it takes in place of ``edge_index``."""
    model = copy.deepcopy(model)
    edges, weight, nodes = graph.edge_index, None, graph.num_nodes
    layers = list(model.modules())
    if any(isinstance(layer, GCNConv) for layer in layers):
        edges, weight = gcn_norm(edges, None, nodes)
    elif any(isinstance(layer, GATConv | GATv2Conv) for layer in layers):
        edges, _ = add_self_loops(remove_self_loops(edges)[0], num_nodes=nodes)
    for layer in layers:
        if isinstance(layer, GCNConv):
            layer.normalize = False
        if isinstance(layer, GCNConv | GATConv | GATv2Conv):
            layer.add_self_loops = False
    return model, sparse_matrix(edges, nodes, weight)
