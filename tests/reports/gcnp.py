"""The network of GCNP."""

import torch
import torch_geometric.nn as gnn
from torch import nn


class TwoBranches(nn.Module):
    """The layer of GCNP: ``relu([x W_self, A (x W_neigh)])``, ``width`` channels from each branch."""

    def __init__(self, inputs, width):
        super().__init__()
        self.own, self.neigh = gnn.Linear(inputs, width, bias=False), gnn.Linear(inputs, width, bias=False)
        self.mean = gnn.SimpleConv(aggr="mean")

    def forward(self, x, edge_index):
        return torch.cat([self.own(x), self.mean(self.neigh(x), edge_index)], dim=-1).relu()


class GCNP(nn.Module):
    """Two layers of two branches and a dense classifier."""

    def __init__(self, features, width, classes):
        super().__init__()
        self.convs = nn.ModuleList([TwoBranches(features, width), TwoBranches(2 * width, width)])
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x, edge_index):
        for conv in self.convs:
            x = conv(x, edge_index)
        return self.head(x)
