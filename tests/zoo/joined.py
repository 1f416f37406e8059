"""Models whose values are joined: residual and jumping connections, concatenations, pooling and heads."""

import torch
import torch.nn.functional as F
import torch_geometric.nn as gnn
from torch import nn

from tests.zoo.entry import HIDDEN, INPUT, OUTPUT
from tests.zoo.stacks import mlp


class Jumping(nn.Module):
    """Jumping knowledge over any convolution, read by a linear head."""

    def __init__(self, conv, mode, layers=3):
        super().__init__()
        self.convs = nn.ModuleList(conv(HIDDEN if i else INPUT, HIDDEN) for i in range(layers))
        self.jump = gnn.JumpingKnowledge(mode, channels=HIDDEN, num_layers=layers)
        self.lin = nn.Linear(HIDDEN * (layers if mode == "cat" else 1), OUTPUT)

    def forward(self, x, edge_index):
        layers = []
        for conv in self.convs:
            x = conv(x, edge_index).relu()
            layers.append(x)
        return self.lin(self.jump(layers))


class NormedResidual(nn.Module):
    """Residual GCN: convolution, norm, relu, plus what came in."""

    def __init__(self, norm=nn.BatchNorm1d, layers=3):
        super().__init__()
        self.enter, self.leave = nn.Linear(INPUT, HIDDEN), nn.Linear(HIDDEN, OUTPUT)
        self.convs = nn.ModuleList(gnn.GCNConv(HIDDEN, HIDDEN) for _ in range(layers))
        self.norms = nn.ModuleList(norm(HIDDEN) for _ in range(layers))

    def forward(self, x, edge_index):
        x = self.enter(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + F.relu(norm(conv(x, edge_index)))
        return self.leave(x)


class PreActivation(NormedResidual):
    """Norm and relu before the convolution, the sum in place."""

    def forward(self, x, edge_index):
        x = self.enter(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = conv(F.relu(norm(x)), edge_index)
            h += x
            x = h
        return self.leave(x)


class InitialResidual(nn.Module):
    """Every layer mixes in the first hidden value: one tensor with many readers."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(INPUT, HIDDEN), nn.Linear(HIDDEN, OUTPUT)
        self.convs = nn.ModuleList(gnn.GCNConv(HIDDEN, HIDDEN) for _ in range(3))

    def forward(self, x, edge_index):
        first = x = self.enter(x).relu()
        for conv in self.convs:
            x = 0.9 * conv(x, edge_index).relu() + 0.1 * first
        return self.leave(x)


class Dense(nn.Module):
    """DenseNet-style: every layer reads the concatenation of all before it."""

    def __init__(self, conv=gnn.GCNConv, layers=3):
        super().__init__()
        self.enter = nn.Linear(INPUT, HIDDEN)
        self.convs = nn.ModuleList(conv(HIDDEN * (i + 1), HIDDEN) for i in range(layers))
        self.leave = nn.Linear(HIDDEN * (layers + 1), OUTPUT)

    def forward(self, x, edge_index):
        x = self.enter(x).relu()
        for conv in self.convs:
            x = torch.cat([x, conv(x, edge_index).relu()], dim=-1)
        return self.leave(x)


class RawAndHidden(nn.Module):
    """A concatenation of raw input features and a hidden value, read by a convolution and by the head."""

    def __init__(self):
        super().__init__()
        self.first = gnn.SAGEConv(INPUT, HIDDEN)
        self.second = gnn.SAGEConv(INPUT + HIDDEN, HIDDEN)
        self.leave = nn.Linear(2 * HIDDEN + INPUT, OUTPUT)

    def forward(self, x, edge_index):
        h = self.first(x, edge_index).relu()
        g = self.second(torch.cat([x, h], dim=1), edge_index).relu()
        return self.leave(torch.cat([h, g, x], dim=1))


class TwoInputs(nn.Module):
    """Two tensors of features, one of them added to a hidden value, both in a concatenation."""

    def __init__(self):
        super().__init__()
        self.first, self.second = gnn.GCNConv(INPUT, HIDDEN), gnn.GCNConv(2 * HIDDEN, HIDDEN)
        self.leave = nn.Linear(HIDDEN, OUTPUT)

    def forward(self, x, edge_index, context):
        h = self.first(x, edge_index).relu()
        h = self.second(torch.cat([h, context], dim=-1), edge_index)
        return self.leave((h + context).relu())


class Headed(nn.Module):
    """Convolutions with an MLP head."""

    def __init__(self, head):
        super().__init__()
        self.conv, self.head = gnn.SAGEConv(INPUT, HIDDEN), head

    def forward(self, x, edge_index):
        return self.head(self.conv(x, edge_index).relu())


class Pooled(nn.Module):
    """Graph-level prediction: convolutions, one or more poolings side by side, an MLP."""

    def __init__(self, *pools, last=None):
        super().__init__()
        self.convs = nn.ModuleList([gnn.GCNConv(INPUT, HIDDEN), gnn.GCNConv(HIDDEN, HIDDEN)])
        self.pools = pools
        self.head = last() if last is not None else mlp(HIDDEN * len(pools), HIDDEN, OUTPUT)

    def forward(self, x, edge_index, batch):
        for conv in self.convs:
            x = conv(x, edge_index).relu()
        return self.head(torch.cat([pool(x, batch) for pool in self.pools], dim=-1))


class PooledContext(nn.Module):
    """Node-level prediction with a global context: the pooled graph is given back to its nodes."""

    def __init__(self):
        super().__init__()
        self.conv, self.context = gnn.SAGEConv(INPUT, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.leave = nn.Linear(2 * HIDDEN, OUTPUT)

    def forward(self, x, edge_index, batch):
        h = self.conv(x, edge_index).relu()
        context = self.context(gnn.global_mean_pool(h, batch)).tanh()
        return self.leave(torch.cat([h, context[batch]], dim=-1))


class WholeGraph(nn.Module):
    """A prediction for a single graph: mean and max over its nodes, as a row `[1, C]` or as a vector `[C]`."""

    def __init__(self, row):
        super().__init__()
        self.conv, self.leave = gnn.GCNConv(INPUT, HIDDEN), nn.Linear(2 * HIDDEN, OUTPUT)
        self.row = row

    def forward(self, x, edge_index):
        h = self.conv(x, edge_index).relu()
        return self.leave(torch.cat([h.mean(0, keepdim=self.row), h.max(0, keepdim=self.row).values], dim=-1))
