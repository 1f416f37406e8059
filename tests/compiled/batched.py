"""A graph, and a model that takes it."""

import torch
from torch import nn

X, EDGES = torch.arange(12.0).reshape(4, 3), torch.tensor([[0, 1, 2], [1, 2, 3]])


class Graph(nn.Module):
    """Takes a graph, its weights and the names PyG gives them."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 2)

    def forward(self, x, edge_index, edge_weight=None, num_nodes=None):
        return self.lin(x)
