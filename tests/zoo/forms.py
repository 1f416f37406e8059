"""Models of gates, halves, writes in place, activations and norms, and of weights that are bare parameters."""

import torch
import torch.nn.functional as F
import torch_geometric.nn as gnn
from torch import nn

from tests.zoo.entry import HIDDEN, INPUT, OUTPUT


class Gated(nn.Module):
    """A sigmoid gate on a hidden value, computed from another reader of the same tensor."""

    def __init__(self, width=HIDDEN):
        super().__init__()
        self.conv, self.again = gnn.GCNConv(INPUT, HIDDEN), gnn.GCNConv(HIDDEN, HIDDEN)
        self.gate, self.leave = nn.Linear(HIDDEN, width), nn.Linear(HIDDEN, OUTPUT)

    def forward(self, x, edge_index):
        h = self.conv(x, edge_index).relu()
        return self.leave(self.again(h, edge_index) * torch.sigmoid(self.gate(h)))


class Highway(Gated):
    """A convex combination of the old value and the new one."""

    def forward(self, x, edge_index):
        h = self.conv(x, edge_index).relu()
        share = torch.sigmoid(self.gate(h))
        return self.leave(share * self.again(h, edge_index) + (1 - share) * h)


class Halves(nn.Module):
    """A gated linear unit: the two halves of one wide value, taken apart in one of several ways."""

    def __init__(self, apart):
        super().__init__()
        self.conv, self.again = gnn.GCNConv(INPUT, 2 * HIDDEN), gnn.GCNConv(HIDDEN, 2 * HIDDEN)
        self.leave, self.apart = nn.Linear(HIDDEN, OUTPUT), apart

    def forward(self, x, edge_index):
        for conv in (self.conv, self.again):
            value, gate = self.apart(conv(x, edge_index))
            x = value * torch.sigmoid(gate)
        return self.leave(x)


def chunks(x):
    return x.chunk(2, dim=-1)


def splits(x):
    return torch.split(x, HIDDEN, dim=1)


def slices(x):
    return x[:, :HIDDEN], x[..., HIDDEN:]


def viewed(x):
    return x.view(-1, 2, HIDDEN).unbind(1)


def strided(x):
    return x[:, ::2], x[:, 1::2]


class GLU(Halves):
    """The same unit through ``F.glu``."""

    def forward(self, x, edge_index):
        for conv in (self.conv, self.again):
            x = F.glu(conv(x, edge_index), dim=-1)
        return self.leave(x)


class InPlace(nn.Module):
    """In-place activations, sums and scalings."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([gnn.GCNConv(INPUT, HIDDEN), gnn.GCNConv(HIDDEN, HIDDEN)])
        self.skip, self.leave = nn.Linear(INPUT, HIDDEN), nn.Linear(HIDDEN, OUTPUT)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x, edge_index):
        h = self.act(self.convs[0](x, edge_index))
        h.add_(self.skip(x)).mul_(0.5)
        g = self.convs[1](h, edge_index).relu_()
        g += h
        return self.leave(g.clamp_(max=2.0))


class Assigned(nn.Module):
    """Item assignment: rows set to zero by a mask, and a slice of channels overwritten."""

    def __init__(self, channels):
        super().__init__()
        self.convs = nn.ModuleList([gnn.GCNConv(INPUT, HIDDEN), gnn.GCNConv(HIDDEN, HIDDEN)])
        self.leave, self.channels = nn.Linear(HIDDEN, OUTPUT), channels

    def forward(self, x, edge_index):
        h = self.convs[0](x, edge_index).relu()
        if self.channels:
            h[:, 2:5] = 0
        else:
            h[x[:, 0] > 0] = 0
        return self.leave(self.convs[1](h, edge_index).relu())


class DropoutModules(nn.Module):
    """Dropout as modules, after the activation and on the input."""

    def __init__(self):
        super().__init__()
        self.enter, self.between = nn.Dropout(0.2), nn.Dropout(0.5)
        self.convs = nn.ModuleList([gnn.GCNConv(INPUT, HIDDEN), gnn.GCNConv(HIDDEN, OUTPUT)])

    def forward(self, x, edge_index):
        return self.convs[1](self.between(self.convs[0](self.enter(x), edge_index).relu()), edge_index)


class Activations(nn.Module):
    """One activation after another, some of which turn zeros into something else."""

    def __init__(self, *acts):
        super().__init__()
        self.enter, self.leave = gnn.GCNConv(INPUT, HIDDEN), nn.Linear(HIDDEN, OUTPUT)
        self.acts, self.lins = (
            nn.ModuleList(act() for act in acts),
            nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in acts),
        )

    def forward(self, x, edge_index):
        x = self.enter(x, edge_index)
        for act, lin in zip(self.acts, self.lins, strict=True):
            x = act(lin(x))
        return self.leave(x)


class RawForms(nn.Module):
    """Weights as bare parameters: matmul, F.linear, addmm, an added bias, a per-channel scale."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(INPUT, HIDDEN)), nn.Parameter(torch.randn(HIDDEN, HIDDEN))
        self.third = nn.Parameter(torch.randn(HIDDEN, OUTPUT))
        self.bias, self.scale = nn.Parameter(torch.zeros(HIDDEN)), nn.Parameter(torch.ones(HIDDEN))
        self.shift = nn.Parameter(torch.zeros(OUTPUT))

    def forward(self, x, edge_index):
        h = (x @ self.first + self.bias).relu()
        h = torch.zeros_like(h).index_add_(0, edge_index[1], h[edge_index[0]])
        h = F.linear(h, self.second, self.bias).tanh() * self.scale
        return torch.addmm(self.shift, h, self.third)


class Normed(nn.Module):
    """A norm between two convolutions, some norms with the graph each node belongs to."""

    def __init__(self, norm, graphs=False):
        super().__init__()
        self.enter, self.norm, self.leave = gnn.GCNConv(INPUT, HIDDEN), norm, gnn.GCNConv(HIDDEN, HIDDEN)
        self.graphs, self.head = graphs, nn.Linear(HIDDEN, OUTPUT)

    def forward(self, x, edge_index, batch):
        h = self.enter(x, edge_index)
        h = (self.norm(h, batch) if self.graphs else self.norm(h)).relu()
        return self.head(self.leave(h, edge_index).relu())
