"""Models that take edges of one form, or graphs of the example's size only, and their arguments."""

import torch
from torch import nn
from torch_geometric.nn import GCNConv, SAGEConv, TopKPooling
from torch_geometric.utils import coalesce, dense_to_sparse, to_dense_adj, to_undirected, trim_to_layer

WIDTH, HIDDEN = 6, 16


class OnEdges(nn.Module):
    """Messages of edges, which ``reverse`` exchanges with those of reverse edges."""

    def __init__(self, reverse):
        super().__init__()
        self.node, self.edge, self.o = nn.Linear(WIDTH, HIDDEN), nn.Linear(5, HIDDEN), nn.Linear(HIDDEN, 3)
        self.reverse = reverse

    def forward(self, x, edge_index, edge_attr):
        h = self.edge(edge_attr).relu()
        h = h + 2 * self.reverse(h)
        return self.o(self.node(x).index_add(0, edge_index[1], h).relu())


def by_view(h):
    return h.view(-1, 2, HIDDEN).flip(1).reshape(-1, HIDDEN)


def by_xor(h):
    return h[torch.arange(h.size(0)) ^ 1]


def by_steps(h):
    return torch.stack([h[1::2], h[0::2]], 1).view(-1, HIDDEN)


def by_halves(h):
    return torch.cat(h.chunk(2)[::-1])


def by_two(h):
    return h.view(2, -1, HIDDEN).flip(0).reshape(-1, HIDDEN)


def half(n, e):
    return torch.randint(n, (2, e // 2))


def paired(n, e):
    a = half(n, e)
    return torch.randn(n, WIDTH), torch.stack([a, a.flip(0)], 2).reshape(2, -1), torch.randn(a.size(1) * 2, 5)


def halved(n, e):
    a = half(n, e)
    return torch.randn(n, WIDTH), torch.cat([a, a.flip(0)], 1), torch.randn(a.size(1) * 2, 5)


class Diffusion(nn.Module):
    """DCRNN: the reverse edges are the entries of a dense matrix, of which there are as many as edges."""

    def __init__(self):
        super().__init__()
        self.l, self.o = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, 3)

    def forward(self, x, edge_index, edge_weight):
        dense = to_dense_adj(edge_index, edge_attr=edge_weight)[0]
        norm = 1 / dense.sum(1)[edge_index[0]]
        back, _ = dense_to_sparse(dense.t())
        h = self.l(x).relu()
        return self.o(torch.zeros_like(h).index_add(0, back[1], h[back[0]] * norm[:, None]))


class Symmetric(Diffusion):
    """Messages of edges in the order of the entries of a symmetric matrix."""

    def forward(self, x, edge_index, edge_weight):
        dense = to_dense_adj(edge_index)[0]
        upper = torch.triu(dense).nonzero().t()
        h = self.l(x).relu()
        m = h[upper[0]] * h[upper[1]]
        return self.o(torch.zeros_like(h).index_add(0, edge_index[1], torch.cat([m, m]) * edge_weight[:, None]))


def weighted(n, e, both=False):
    edges = coalesce(torch.randint(n, (2, e)))
    edges = edges[:, edges[0] != edges[1]]
    edges = to_undirected(edges) if both else edges
    return torch.randn(n, WIDTH), edges, torch.rand(edges.size(1)) + 0.5


class Chosen(nn.Module):
    """EvolveGCN-H: as many nodes are chosen as a weight has rows; ``read`` brings both together."""

    def __init__(self, read):
        super().__init__()
        self.l, self.pool, self.o = nn.Linear(WIDTH, 24), TopKPooling(24, 8), nn.Linear(24, 3)
        self.w, self.read = nn.Parameter(torch.randn(8, 24)), read

    def forward(self, x, edge_index):
        return self.o(self.read(self.pool(self.l(x), edge_index)[0], self.w))


def graph(n, e=None):
    return torch.randn(n, WIDTH), torch.randint(n, (2, e or 4 * n))


class PerNode(nn.Module):
    """AnomalyDAE: ``batch_size`` is the number of nodes, beside a weight per node."""

    def __init__(self, nodes):
        super().__init__()
        self.conv, self.a, self.c = GCNConv(WIDTH, 12), nn.Linear(nodes, HIDDEN), nn.Linear(HIDDEN, 12)

    def forward(self, x, edge_index, batch_size):
        return self.conv(x, edge_index) @ self.c(self.a(x[:batch_size].T).relu()).T


class OfData(PerNode):
    def forward(self, data):
        return super().forward(data.x, data.edge_index, data.batch_size)


class Trimmed(nn.Module):
    """Layers of fewer and fewer nodes and edges."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([SAGEConv(WIDTH, HIDDEN), SAGEConv(HIDDEN, HIDDEN)])
        self.o = nn.Linear(HIDDEN, 3)

    def forward(self, x, edge_index, nodes_per_hop, edges_per_hop):
        for number, conv in enumerate(self.convs):
            x, edge_index, _ = trim_to_layer(number, nodes_per_hop, edges_per_hop, x, edge_index)
            x = conv(x, edge_index).relu()
        return self.o(x)


class Narrowed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = GCNConv(WIDTH, HIDDEN), GCNConv(HIDDEN, 3)

    def forward(self, x, edge_index, n, e):
        return self.b(self.a(x, edge_index).relu()[:n], edge_index[:, :e])


def hops():
    """Two hops of a sampled graph: 4 seeds, 8 nodes, 14 nodes; 10 edges, 16 edges."""
    near = torch.stack([torch.randint(4, 12, (10,)), torch.randint(4, (10,))])
    far = torch.stack([torch.randint(12, 26, (16,)), torch.randint(4, 12, (16,))])
    return torch.randn(26, WIDTH), torch.cat([near, far], 1)


class ChannelsFirst(nn.Module):
    """GraphEBM: features ``[B, F, N]`` and a dense matrix ``[B, E, N, N]``."""

    def __init__(self):
        super().__init__()
        self.kinds = nn.ModuleList([nn.Linear(WIDTH, HIDDEN) for _ in range(2)])
        self.o = nn.Linear(HIDDEN, 3)

    def forward(self, x, adj):
        x = x.transpose(1, 2)
        return self.o(sum(adj[:, kind] @ layer(x) for kind, layer in enumerate(self.kinds)).relu()).sum(1)


class Matrix(nn.Module):
    """PPGN: a matrix ``[B, C, N, N]`` per channel; ``both`` says whether it has one axis of nodes or two."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Conv2d(5, HIDDEN, 1), nn.Conv2d(5, HIDDEN, 1), nn.Linear(HIDDEN, 3)

    def forward(self, x):
        return self.o((self.a(x).relu() @ self.b(x).relu()).mean((-1, -2)))


class Points(nn.Module):
    """Sets of points ``[B, F, N]``; ``near`` neighbours of each are read."""

    def __init__(self, near=0):
        super().__init__()
        self.near = near
        self.a, self.o = nn.Conv1d(WIDTH, HIDDEN, 1), nn.Linear(HIDDEN, 3)

    def forward(self, x):
        h = self.a(x).relu()
        if self.near:
            nodes = x.transpose(1, 2)
            index = torch.cdist(nodes, nodes).topk(self.near, largest=False).indices
            h = torch.stack([one[:, near].amax(-1) for one, near in zip(h.unbind(0), index.unbind(0), strict=True)])
        return self.o(h.amax(2))


class Distances(nn.Module):
    """Points ``[B, F, N]`` and a matrix of their distances ``[B, N, N]``."""

    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Conv1d(WIDTH, HIDDEN, 1), nn.Linear(HIDDEN, 3)

    def forward(self, x, distances):
        return self.o((self.a(x).relu() @ distances.softmax(-1)).mean(2))


class Windows(nn.Module):
    """MPNNLSTM: the nodes are ``steps`` times those of one graph."""

    def __init__(self):
        super().__init__()
        self.conv, self.lstm, self.o = GCNConv(WIDTH, HIDDEN), nn.LSTM(HIDDEN, 12), nn.Linear(12, 3)

    def forward(self, x, edge_index):
        return self.o(self.lstm(self.conv(x, edge_index).relu().view(-1, 20, HIDDEN))[0][-1])
