"""Models whose parts have modes of their own: dropout of attention and of functions, batch norm, two modes in one."""

import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import BatchNorm, GATConv, GCNConv, TransformerConv
from torch_geometric.utils import dropout_edge


class Backbone(nn.Module):
    """Attention dropout in layers, functional dropout of its own, batch norm."""

    def __init__(self):
        super().__init__()
        self.a, self.b = GATConv(8, 4, heads=2, dropout=0.5), TransformerConv(8, 8, dropout=0.25)
        self.norm, self.act = BatchNorm(8), nn.ReLU()

    def forward(self, x, edge_index):
        x = self.act(self.norm(self.a(x, edge_index)))
        return self.b(F.dropout(x, 0.5, self.training), edge_index)


class Model(nn.Module):
    """Parts three deep, dropout in the root, and constants that do not depend on any mode."""

    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleDict({"first": Backbone()})
        self.layers = nn.ModuleList([GCNConv(8, 8), nn.Dropout(0.3), GATConv(8, 8, dropout=0.1)])
        self.head = nn.Linear(8, 3)

    def forward(self, x, edge_index):
        x = self.inner["first"](x, edge_index)
        x = self.layers[2](self.layers[1](self.layers[0](x, edge_index)), edge_index)
        return self.head(F.dropout(x, p=0.2 if self.training else 0.0))


class Twice(nn.Module):
    """A module that is called twice and has two names; dropout whose mode a module above passes down."""

    def __init__(self):
        super().__init__()
        self.conv = GATConv(8, 8, dropout=0.5)
        self.again = nn.ModuleList([self.conv, BatchNorm(8)])
        self.passed = Passed()

    def forward(self, x, edge_index):
        x = self.again[1](self.conv(x, edge_index).relu())
        return self.passed(self.again[0](x, edge_index), edge_index, self.training)


class Passed(nn.Module):
    """Two modes in one layer: that of the module above for nodes, its own for edges and for its result."""

    def __init__(self):
        super().__init__()
        self.conv = GCNConv(8, 8)
        self.out = GCNConv(8, 3)

    def forward(self, x, edge_index, train):
        edge_index, _ = dropout_edge(edge_index, 0.5, training=self.training)
        x = F.dropout(self.conv(x, edge_index).relu(), 0.4, train)
        return F.dropout(self.out(x, edge_index), 0.3 if self.training else 0.0)
