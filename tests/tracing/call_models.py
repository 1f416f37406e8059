"""Ways of handing graphs to a model: triplets, faces, samples of layers, tables per graph, dictionaries."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GCNConv, GINEConv, SAGEConv, global_add_pool, global_max_pool, global_mean_pool
from torch_geometric.utils import scatter

from tests.tracing.axis_models import HIDDEN, WIDTH, edges, normal


def numbers(g, below, *size):
    return torch.randint(below, size, generator=g)


class Faces(nn.Module):
    """Corners of the faces of a mesh ``[3, F]``."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(9, HIDDEN), nn.Linear(HIDDEN, 3)

    def forward(self, pos, face):
        return self.b(self.a(torch.cat(pos[face].unbind(0), -1)).relu())

    @staticmethod
    def call(g, n, e, m, f):
        return normal(g, n, 3), numbers(g, n, 3, e)


class Facts(nn.Module):
    """Head, relation and tail in the columns of one tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.r, self.o = GCNConv(WIDTH, HIDDEN), nn.Embedding(5, HIDDEN), nn.Linear(HIDDEN, 1)

    def forward(self, x, edge_index, triples):
        h = self.a(x, edge_index)
        return self.o(h[triples[:, 0]] * self.r(triples[:, 1]) * h[triples[:, 2]])

    @staticmethod
    def call(g, n, e, m, f):
        columns = numbers(g, n, f), numbers(g, 5, f), numbers(g, n, f)
        return normal(g, n, WIDTH), edges(g, n, e), torch.stack(columns, 1)


class BothWays(nn.Module):
    """Two types of nodes in arguments of their own, and edges in both directions."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = SAGEConv((WIDTH, 4), HIDDEN), SAGEConv((4, WIDTH), HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, x_user, x_item, bought, bought_by):
        item, user = self.a((x_user, x_item), bought), self.b((x_item, x_user), bought_by)
        return self.o(item.relu()), self.o(user.relu())

    @staticmethod
    def call(g, n, e, m, f):
        return normal(g, n, WIDTH), normal(g, m, 4), edges(g, n, e, m), edges(g, m, f, n)


class Triplets(nn.Module):
    """Integers that number edges (DimeNet)."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(2 * WIDTH, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, x, edge_index, idx_kj, idx_ji):
        m = self.a(torch.cat([x[edge_index[0]], x[edge_index[1]]], -1)).relu()
        m = m + torch.zeros_like(m).index_add(0, idx_ji, self.b(m[idx_kj]))
        return self.o(x.new_zeros(x.size(0), HIDDEN).index_add(0, edge_index[1], m))

    @staticmethod
    def call(g, n, e, m, f):
        return normal(g, n, WIDTH), edges(g, n, e), numbers(g, e, 4 * f), numbers(g, e, 4 * f)


class Sampled(nn.Module):
    """A list of sampled bipartite graphs, each with its sizes, as NeighborSampler gives them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([SAGEConv(WIDTH, HIDDEN), SAGEConv(HIDDEN, 3)])

    def forward(self, x, adjs):
        for number, (edge_index, _, size) in enumerate(adjs):
            x = self.layers[number]((x, x[: size[1]]), edge_index)
            x = x if number else x.relu()
        return x

    @staticmethod
    def call(g, n, e, m, f):
        many, some, few = n + m + 10, n // 2 + 3, 4
        first = edges(g, many, e, some), torch.arange(e), (many, some)
        return normal(g, many, WIDTH), [first, (edges(g, some, f, few), torch.arange(f), (some, few))]


class Roots(nn.Module):
    """One node of every graph."""

    def __init__(self):
        super().__init__()
        self.a, self.o = GCNConv(WIDTH, HIDDEN), nn.Linear(2 * HIDDEN, 2)

    def forward(self, x, edge_index, batch, root):
        h = self.a(x, edge_index).relu()
        return self.o(torch.cat([global_mean_pool(h, batch), h[root]], -1))

    @staticmethod
    def call(g, n, e, m, f):
        batch = torch.arange(n) * 4 // n
        return normal(g, n, WIDTH), edges(g, n, e), batch, torch.searchsorted(batch, torch.arange(4))


class Words(nn.Module):
    """Nodes have words only ``[N, L]``."""

    def __init__(self):
        super().__init__()
        self.e, self.a, self.o = nn.Embedding(100, WIDTH), GCNConv(WIDTH, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, tokens, edge_index):
        return self.o(self.a(self.e(tokens).mean(1), edge_index).relu())

    @staticmethod
    def call(g, n, e, m, f):
        return numbers(g, 100, n, 9), edges(g, n, e)


class DrugTarget(nn.Module):
    """A graph and a sequence of letters (GraphDTA)."""

    def __init__(self):
        super().__init__()
        self.a, self.e, self.c = GCNConv(WIDTH, HIDDEN), nn.Embedding(26, 8), nn.Conv1d(8, HIDDEN, 5)
        self.o = nn.Linear(2 * HIDDEN, 1)

    def forward(self, x, edge_index, batch, target):
        letters = self.c(self.e(target).transpose(1, 2)).relu().amax(-1)
        return self.o(torch.cat([global_max_pool(self.a(x, edge_index).relu(), batch), letters], -1))

    @staticmethod
    def call(g, n, e, m, f):
        return normal(g, n, WIDTH), edges(g, n, e), torch.arange(n) * 5 // n, numbers(g, 26, 5, 40)


class Tables(nn.Module):
    """Features ``[B, N, F]`` and neighbours ``[B, N, k]`` of several graphs."""

    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(2 * WIDTH, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, x, neighbours):
        near = x[torch.arange(x.size(0))[:, None, None], neighbours]
        return self.o(self.a(torch.cat([x, near.mean(2)], -1)).relu())

    @staticmethod
    def call(g, n, e, m, f):
        return normal(g, 4, n, WIDTH), numbers(g, n, 4, n, 5)


class Crystals(nn.Module):
    """Neighbours ``[N, M]``, their features ``[N, M, F]``, and a list of the atoms of each crystal (CGCNN)."""

    def __init__(self):
        super().__init__()
        self.e, self.f, self.o = nn.Linear(WIDTH, HIDDEN), nn.Linear(2 * HIDDEN + 4, 2 * HIDDEN), nn.Linear(HIDDEN, 1)

    def forward(self, atoms, near, near_index, crystals):
        h = self.e(atoms)
        pair = torch.cat([h[:, None].expand(-1, near_index.size(1), -1), h[near_index], near], 2)
        gate, core = self.f(pair).chunk(2, -1)
        h = F.softplus(h + (gate.sigmoid() * F.softplus(core)).sum(1))
        return self.o(torch.cat([h[members].mean(0, keepdim=True) for members in crystals]))

    @staticmethod
    def call(g, n, e, m, f):
        halves = [torch.arange(n // 2), torch.arange(n // 2, n)]
        return normal(g, n, WIDTH), normal(g, n, 6, 4), numbers(g, n, n, 6), halves


class PairsOfBatches(nn.Module):
    """Edge features and graph numbers of two graphs, told apart by a digit."""

    def __init__(self):
        super().__init__()
        self.a, self.o = GINEConv(nn.Linear(WIDTH, HIDDEN), edge_dim=3), nn.Linear(2 * HIDDEN, 1)

    def forward(self, x1, edge_index1, edge_attr1, batch1, x2, edge_index2, edge_attr2, batch2):
        first = global_add_pool(self.a(x1, edge_index1, edge_attr1).relu(), batch1)
        second = global_add_pool(self.a(x2, edge_index2, edge_attr2).relu(), batch2)
        return self.o(torch.cat([first, second], -1))

    @staticmethod
    def call(g, n, e, m, f):
        one = normal(g, n, WIDTH), edges(g, n, e), normal(g, e, 3), torch.arange(n) * 3 // n
        return *one, normal(g, m, WIDTH), edges(g, m, f), normal(g, f, 3), torch.arange(m) * 3 // m


class Dictionaries(nn.Module):
    """Each graph is a dictionary."""

    def __init__(self):
        super().__init__()
        self.a, self.o = GCNConv(WIDTH, HIDDEN), nn.Linear(2 * HIDDEN, 1)

    def forward(self, protein, ligand):
        pooled = [self.a(graph["x"], graph["edge_index"]).relu().mean(0) for graph in (protein, ligand)]
        return self.o(torch.cat(pooled))

    @staticmethod
    def call(g, n, e, m, f):
        return tuple({"x": normal(g, k, WIDTH), "edge_index": edges(g, k, c)} for k, c in ((n, e), (m, f)))


class Coarse(nn.Module):
    """Clusters of nodes with edges between clusters: nothing but the largest number says how many there are."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = GCNConv(WIDTH, HIDDEN), GCNConv(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, x, edge_index, assign, coarse_edge_index):
        h = self.a(x, edge_index).relu()
        coarse = self.b(scatter(h, assign, 0, reduce="sum"), coarse_edge_index).relu()
        return self.o(h + coarse[assign])

    @staticmethod
    def call(g, n, e, m, f):
        assign = torch.cat([torch.arange(7), numbers(g, 7, n - 7)])
        return normal(g, n, WIDTH), edges(g, n, e), assign, edges(g, 7, 20)


CALLS = (
    Faces, Facts, BothWays, Triplets, Sampled, Roots, Words, DrugTarget, Tables, Crystals, PairsOfBatches, Dictionaries,
)  # fmt: skip
