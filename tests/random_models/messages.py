"""Message passing as users write it: edge features beside both ends, gates, and edges that are updated."""

import torch
import torch_geometric.nn as pyg
from torch import nn
from torch_geometric.utils import softmax


class EdgeMLP(pyg.MessagePassing):
    """Messages from an MLP of both ends and the edge."""

    def __init__(self, source, edge, out, hidden=4, aggr="sum"):
        super().__init__(aggr=aggr)
        self.mlp = nn.Sequential(nn.Linear(2 * source + edge, hidden), nn.ReLU(), nn.Linear(hidden, out))

    def forward(self, x, edge_index, edge_attr):
        return self.propagate(edge_index, x=x, edge_attr=edge_attr)

    def message(self, x_i, x_j, edge_attr):
        return self.mlp(torch.cat([x_i, x_j - x_i, edge_attr], dim=-1))


class EdgeGate(pyg.MessagePassing):
    """Messages scaled by a gate of both ends that is normalised over the edges of a node; the node is added."""

    def __init__(self, source, edge, out, aggr="sum"):
        super().__init__(aggr=aggr)
        self.query, self.key = nn.Linear(source, out), nn.Linear(source, out, bias=False)
        self.value, self.edge, self.root = nn.Linear(source, out), nn.Linear(edge, out), nn.Linear(source, out)

    def forward(self, x, edge_index, edge_attr):
        alpha = self.edge_updater(edge_index, q=self.query(x), k=self.key(x), e=self.edge(edge_attr))
        return self.propagate(edge_index, v=self.value(x), alpha=alpha) + self.root(x)

    def edge_update(self, q_i, k_j, e, index, ptr, size_i):
        return softmax((q_i * (k_j + e)).sum(-1, keepdim=True), index, ptr, size_i)

    def message(self, v_j, alpha):
        return alpha * v_j

    def update(self, inputs):
        return inputs.tanh()


class EdgeUpdate(nn.Module):
    """New features of edges from their ends and old ones, and of nodes from the edges that arrive."""

    def __init__(self, source, edge, out):
        super().__init__()
        self.edge = nn.Sequential(nn.Linear(2 * source + edge, out), nn.ReLU())
        self.node = nn.Sequential(nn.Linear(source + out, out), nn.LeakyReLU())

    def forward(self, x, edge_index, edge_attr):
        row, col = edge_index
        edge_attr = self.edge(torch.cat([x[row], x[col], edge_attr], 1))
        arrived = x.new_zeros(x.size(0), edge_attr.size(1)).index_add_(0, col, edge_attr)
        return self.node(torch.cat([x, arrived], 1)), edge_attr
