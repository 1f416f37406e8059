"""Models of messages on edges, of links, of layers called several times and of several outputs."""

import torch
import torch_geometric.nn as gnn
from torch import nn
from torch_geometric.utils import softmax

from tests.zoo.entry import EDGE, HIDDEN, INPUT, OUTPUT
from tests.zoo.stacks import mlp


class EdgeMLP(gnn.MessagePassing):
    """A message from both ends of an edge: an MLP of their concatenation, as in EdgeConv."""

    def __init__(self, source, target, edge=0, aggr="max"):
        super().__init__(aggr=aggr)
        self.in_channels, self.out_channels = source, target
        self.mlp = mlp(2 * source + edge, HIDDEN, target)

    def forward(self, x, edge_index, edge_attr=None):
        return self.propagate(edge_index, x=x, edge_attr=edge_attr)

    def message(self, x_i, x_j, edge_attr):
        parts = [x_i, x_j - x_i] if edge_attr is None else [x_i, x_j, edge_attr]
        return self.mlp(torch.cat(parts, dim=-1))


def edge_conv(source, target):
    return gnn.EdgeConv(mlp(2 * source, HIDDEN, target))


class EdgeGate(gnn.MessagePassing):
    """Messages scaled by a sigmoid of both ends, `[E, 1]` times `[E, C]`, normalised over the edges of a node."""

    def __init__(self, source, target):
        super().__init__(aggr="add")
        self.lin, self.score = nn.Linear(source, target), nn.Linear(2 * target, 1)
        self.in_channels = source

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=self.lin(x))

    def message(self, x_i, x_j, index):
        share = softmax(self.score(torch.cat([x_i, x_j], dim=-1)), index)
        return share * x_j


class EdgeUpdates(nn.Module):
    """Hidden edge features that are updated from both ends and summed into the nodes, layer by layer."""

    def __init__(self):
        super().__init__()
        self.nodes, self.edges = nn.Linear(INPUT, HIDDEN), nn.Linear(EDGE, HIDDEN)
        self.edge_mlp, self.node_mlp = mlp(3 * HIDDEN, HIDDEN, HIDDEN), mlp(2 * HIDDEN, HIDDEN, HIDDEN)
        self.leave = nn.Linear(HIDDEN, OUTPUT)

    def forward(self, x, edge_index, edge_attr):
        h, e = self.nodes(x).relu(), self.edges(edge_attr).relu()
        for _ in range(2):  # both rounds share their weights
            e = e + self.edge_mlp(torch.cat([h[edge_index[0]], h[edge_index[1]], e], dim=-1)).relu()
            summed = torch.zeros_like(h).index_add(0, edge_index[1], e)
            h = h + self.node_mlp(torch.cat([h, summed], dim=-1)).relu()
        return self.leave(h)


class Calls(nn.Module):
    """The same linear module or the same convolution called several times."""

    def __init__(self, shared, times):
        super().__init__()
        self.enter, self.shared, self.leave = gnn.GCNConv(INPUT, HIDDEN), shared, nn.Linear(HIDDEN, OUTPUT)
        self.times = times

    def forward(self, x, edge_index):
        x = self.enter(x, edge_index).relu()
        for _ in range(self.times):
            x = (self.shared(x) if isinstance(self.shared, nn.Linear) else self.shared(x, edge_index)).relu()
        return self.leave(x)


class TwoBranches(nn.Module):
    """One linear module called on two different values, whose results are compared channel by channel."""

    def __init__(self):
        super().__init__()
        self.left, self.right = gnn.GCNConv(INPUT, HIDDEN), gnn.SAGEConv(INPUT, HIDDEN)
        self.shared, self.leave = nn.Linear(HIDDEN, HIDDEN), nn.Linear(2 * HIDDEN, OUTPUT)

    def forward(self, x, edge_index):
        a = self.shared(self.left(x, edge_index).relu())
        b = self.shared(self.right(x, edge_index).relu())
        return self.leave(torch.cat([(a - b).abs(), a * b], dim=-1))


class TwoHeads(nn.Module):
    """Returns logits and an embedding: the hidden value itself is an output."""

    def __init__(self, named=False, embed=True):
        super().__init__()
        self.convs = nn.ModuleList([gnn.SAGEConv(INPUT, HIDDEN), gnn.SAGEConv(HIDDEN, HIDDEN)])
        self.classify, self.regress = nn.Linear(HIDDEN, OUTPUT), nn.Linear(HIDDEN, 1)
        self.named, self.embed = named, embed

    def forward(self, x, edge_index):
        for conv in self.convs:
            x = conv(x, edge_index).relu()
        if self.named:
            return {"class": self.classify(x), "value": self.regress(x)}
        return (self.classify(x), x) if self.embed else (self.classify(x), self.regress(x))


class LinkScores(nn.Module):
    """Link prediction: a dot product of the two ends of every edge."""

    def __init__(self, mlp_decoder=False):
        super().__init__()
        self.convs = nn.ModuleList([gnn.SAGEConv(INPUT, HIDDEN), gnn.SAGEConv(HIDDEN, HIDDEN)])
        self.decode = mlp(2 * HIDDEN, HIDDEN, 1) if mlp_decoder else None

    def forward(self, x, edge_index):
        h = self.convs[1](self.convs[0](x, edge_index).relu(), edge_index)
        source, target = h[edge_index[0]], h.index_select(0, edge_index[1])
        if self.decode is None:
            return (source * target).sum(dim=-1)
        return self.decode(torch.cat([source, target], dim=-1)).squeeze(-1)
