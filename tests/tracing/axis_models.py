"""Models of sequences, vectors and several graphs, and their arguments for given sizes."""

import torch
from torch import nn
from torch_geometric.nn import GCN, GCNConv, SAGEConv, global_mean_pool

WIDTH, HIDDEN = 6, 12


def normal(g, *size):
    return torch.randn(*size, generator=g, dtype=torch.float64)


def edges(g, n, e, m=None):
    return torch.stack([torch.randint(n, (e,), generator=g), torch.randint(m or n, (e,), generator=g)])


def sums(messages, edge_index, nodes):
    return messages.new_zeros(nodes, *messages.shape[1:]).index_add(0, edge_index[1], messages)


class EdgeVectors(nn.Module):
    """Vectors on edges ``[E, C, 3]``, of which only lengths count."""

    def __init__(self, c):
        super().__init__()
        self.v = nn.Linear(c, 8, bias=False)
        self.s, self.o = nn.Linear(8 + WIDTH, HIDDEN), nn.Linear(HIDDEN, 4)

    def forward(self, x, edge_index, ev):
        lengths = self.v(ev.transpose(1, 2)).square().sum(1)
        m = self.s(torch.cat([x[edge_index[0]], lengths], -1)).relu()
        return self.o(sums(m, edge_index, x.size(0)))


class NodeVectors(nn.Module):
    """Vectors on nodes ``[N, C, 3]``, mixed by weights and passed along edges."""

    def __init__(self, c):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(c, HIDDEN, bias=False), nn.Linear(HIDDEN, 5, bias=False), nn.Linear(5, 3)

    def forward(self, v, edge_index):
        h = self.a(v.transpose(1, 2)).transpose(1, 2)
        h = sums(h[edge_index[0]], edge_index, v.size(0))
        return self.o(self.b(h.transpose(1, 2)).square().sum(1))


class Perceptron(nn.Module):
    """A pair of scalars ``[.., S]`` and vectors ``[.., V, 3]`` (GVP)."""

    def __init__(self, s_in, v_in, s_out, v_out):
        super().__init__()
        self.h, self.v = nn.Linear(v_in, v_out, bias=False), nn.Linear(v_out, v_out, bias=False)
        self.s, self.gate = nn.Linear(s_in + v_out, s_out), nn.Linear(s_out, v_out)

    def forward(self, x):
        s, v = x
        h = self.h(v.transpose(-1, -2))
        s = self.s(torch.cat([s, (h.square().sum(-2) + 1e-6).sqrt()], -1))
        return s.relu(), self.v(h).transpose(-1, -2) * self.gate(s).sigmoid().unsqueeze(-1)


class Geometric(nn.Module):
    def __init__(self):
        super().__init__()
        self.node, self.edge = Perceptron(WIDTH, 3, HIDDEN, 4), Perceptron(5, 1, 8, 2)
        self.message, self.o = Perceptron(2 * HIDDEN + 8, 10, HIDDEN, 4), nn.Linear(HIDDEN, 2)

    def forward(self, nodes, edge_index, edge_features):
        (s, v), (es, ev) = self.node(nodes), self.edge(edge_features)
        row, col = edge_index
        ms, mv = self.message((torch.cat([s[row], es, s[col]], -1), torch.cat([v[row], ev, v[col]], -2)))
        s, v = s + sums(ms, edge_index, s.size(0)), v + sums(mv, edge_index, s.size(0))
        return self.o(s), v


class Coordinates(nn.Module):
    """EGNN: features and coordinates."""

    def __init__(self):
        super().__init__()
        self.e = nn.Sequential(nn.Linear(2 * WIDTH + 1, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU())
        self.x, self.h = nn.Linear(HIDDEN, 1, bias=False), nn.Linear(WIDTH + HIDDEN, WIDTH)

    def forward(self, h, coord, edge_index):
        row, col = edge_index
        apart = coord[row] - coord[col]
        m = self.e(torch.cat([h[row], h[col], apart.square().sum(-1, keepdim=True)], -1))
        coord = coord + sums(apart * self.x(m), edge_index, h.size(0))
        return self.h(torch.cat([h, sums(m, edge_index, h.size(0))], -1)), coord


class Convolved(nn.Module):
    """``[B, T, N, F]`` with convolutions over time (STGCN)."""

    def __init__(self):
        super().__init__()
        self.t, self.t2 = nn.Conv2d(4, HIDDEN, (1, 3)), nn.Conv2d(HIDDEN, HIDDEN, (1, 4))
        self.g, self.o = GCNConv(HIDDEN, HIDDEN, node_dim=-2), nn.Linear(HIDDEN, 1)

    def forward(self, x, edge_index):
        h = self.t2(self.t(x.permute(0, 3, 2, 1)).relu()).permute(0, 3, 2, 1)
        return self.o(self.g(h, edge_index).relu())


class ChannelsFirst(nn.Module):
    """``[B, F, N, T]`` (Graph WaveNet)."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Conv2d(4, HIDDEN, (1, 2)), nn.Conv2d(2 * HIDDEN, HIDDEN, 1), nn.Conv2d(HIDDEN, 3, 1)

    def forward(self, x, edge_index):
        h = self.a(x).tanh()
        near = torch.zeros_like(h).index_add(2, edge_index[1], h[:, :, edge_index[0]])
        return self.o(self.b(torch.cat([h, near], 1)).relu()).mean(-1)


class Steps(nn.Module):
    """``[T, N, F]``, one layer after the other in a loop over time."""

    def __init__(self):
        super().__init__()
        self.cell, self.a, self.o = nn.GRUCell(HIDDEN, HIDDEN), SAGEConv(WIDTH, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, x, edge_index):
        h = x.new_zeros(x.size(1), HIDDEN)
        for t in range(x.size(0)):
            h = self.cell(self.a(x[t], edge_index).relu(), h)
        return self.o(h)


class LastAxis(nn.Module):
    """``[N, F, T]``: a weight per time step (A3TGCN)."""

    def __init__(self, steps=5):
        super().__init__()
        self.share, self.steps = nn.Parameter(torch.randn(steps)), steps
        self.g, self.o = GCNConv(WIDTH, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, x, edge_index):
        share = self.share.softmax(0)
        return self.o(sum(share[t] * self.g(x[:, :, t], edge_index) for t in range(self.steps)).relu())


class NodesThenTime(nn.Module):
    """``[N, T, F]`` with more steps than nodes, one vector of all steps per node."""

    def __init__(self, steps):
        super().__init__()
        self.a, self.g, self.o = nn.Linear(WIDTH * steps, HIDDEN), GCNConv(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, x, edge_index):
        return self.o(self.g(self.a(x.flatten(1)).relu(), edge_index).relu())


class Snapshots(nn.Module):
    """Lists of features and edges over time, the same nodes in all of them."""

    def __init__(self):
        super().__init__()
        self.a, self.o = SAGEConv(WIDTH, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, xs, edge_indices):
        return self.o(sum(self.a(x, e).relu() for x, e in zip(xs, edge_indices, strict=True)))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.b, self.h = GCN(WIDTH, HIDDEN, 2, HIDDEN), nn.Linear(2 * HIDDEN, 1)

    def pooled(self, x, edge_index, batch=None):
        h = self.b(x, edge_index).relu()
        return h.mean(0) if batch is None else global_mean_pool(h, batch)

    def forward(self, x, edge_index, x2, edge_index2):
        return self.h(torch.cat([self.pooled(x, edge_index), self.pooled(x2, edge_index2)], -1))


class PairData(Two):
    def forward(self, x_s, edge_index_s, x_t, edge_index_t, x_s_batch, x_t_batch):
        s, t = self.pooled(x_s, edge_index_s, x_s_batch), self.pooled(x_t, edge_index_t, x_t_batch)
        return self.h(torch.cat([s, t], -1))


class Complex(Two):
    """Names before instead of after."""

    def forward(self, ligand_x, pocket_x, ligand_edge_index, pocket_edge_index):
        return Two.forward(self, ligand_x, ligand_edge_index, pocket_x, pocket_edge_index)


class Unnamed(Two):
    def forward(self, xa, xb, ea, eb):
        return Two.forward(self, xa, ea, xb, eb)


class Containers(Two):
    def forward(self, first, second):
        return Two.forward(self, *first, *second)


class Graphs(Two):
    """A list of graphs, each a tuple."""

    def forward(self, graphs):
        return self.h(torch.cat([self.pooled(*graphs[0]), self.pooled(*graphs[1]) + self.pooled(*graphs[2])], -1))


class Lists(Two):
    def forward(self, xs, edge_indices):
        return Two.forward(self, xs[0], edge_indices[0], xs[1], edge_indices[1])


class Views(Two):
    """Two views of one graph, compared node by node."""

    def forward(self, x1, edge_index1, x2, edge_index2):
        return self.h(torch.cat([self.b(x1, edge_index1), self.b(x2, edge_index2)], -1))


class Cross(Two):
    """Attention of the nodes of one graph on those of the other."""

    def forward(self, x_1, edge_index_1, x_2, edge_index_2):
        a, b = self.b(x_1, edge_index_1).relu(), self.b(x_2, edge_index_2).relu()
        return self.h(torch.cat([a, (a @ b.t()).softmax(-1) @ b], -1))


class Relations(nn.Module):
    """A list of pairs of edges and weights over the same nodes."""

    def __init__(self):
        super().__init__()
        self.convs, self.o = nn.ModuleList([GCNConv(WIDTH, HIDDEN) for _ in range(3)]), nn.Linear(HIDDEN, 2)

    def forward(self, x, edges):
        return self.o(sum(c(x, e, w).relu() for c, (e, w) in zip(self.convs, edges, strict=True)))


class TypedLinks(nn.Module):
    """Links between two types of nodes, in one ``edge_label_index``."""

    def __init__(self):
        super().__init__()
        self.u, self.i = SAGEConv((WIDTH, 4), HIDDEN), SAGEConv((4, WIDTH), HIDDEN)
        self.o = nn.Linear(2 * HIDDEN, 1)

    def forward(self, x_dict, edge_index_dict, edge_label_index):
        x, y = x_dict["user"], x_dict["item"]
        item = self.u((x, y), edge_index_dict["user", "buys", "item"]).relu()
        user = self.i((y, x), edge_index_dict["item", "bought_by", "user"]).relu()
        return self.o(torch.cat([user[edge_label_index[0]], item[edge_label_index[1]]], -1)).view(-1)


class FirstRows(nn.Module):
    """As many of the larger type as there are of the smaller."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(WIDTH, HIDDEN), nn.Linear(4, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, x_dict):
        few, many = self.a(x_dict["few"]), self.b(x_dict["many"])
        return self.o((few + many[: few.size(0)]).relu())
