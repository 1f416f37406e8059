"""Models whose arguments number nodes in other shapes than ``[2, E]``, and examples of any number of nodes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GCNConv, SAGEConv
from torch_geometric.utils import scatter

WIDTH, HIDDEN = 6, 12


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.score = SAGEConv(WIDTH, HIDDEN), SAGEConv(HIDDEN, HIDDEN), nn.Linear(2 * HIDDEN, 1)

    def encode(self, x, edge_index):
        return self.b(self.a(x, edge_index).relu(), edge_index)

    def pairs(self, u, v):
        return self.score(torch.cat([u, v], -1)).view(-1)


class Columns(Encoder):
    def forward(self, x, edge_index, query_edges):
        z = self.encode(x, edge_index)
        return self.pairs(z[query_edges[:, 0]], z[query_edges[:, 1]])


class Ends(Encoder):
    def forward(self, x, edge_index, src, dst):
        z = self.encode(x, edge_index)
        return self.pairs(z[src], z[dst])


class Seeds(Encoder):
    def forward(self, x, edge_index, nodes):
        z = self.encode(x, edge_index)[nodes]
        return self.pairs(z, z.flip(0))


class Triples(Encoder):
    """Anchor, positive and negative node in one tensor ``[Q, 3]``."""

    def forward(self, x, edge_index, triples):
        z = self.encode(x, edge_index)[triples]
        return F.relu((z[:, 0] - z[:, 1]).square().sum(-1) - (z[:, 0] - z[:, 2]).square().sum(-1) + 1) + self.pairs(
            z[:, 0], z[:, 1]
        )


class Negatives(Encoder):
    """A head, a relation and many tails."""

    def __init__(self):
        super().__init__()
        self.relations = nn.Embedding(3, HIDDEN)

    def forward(self, x, edge_index, head, rel_type, tails):
        z = self.encode(x, edge_index)
        return ((z[head] * self.relations(rel_type))[:, None] * z[tails]).sum(-1)


class Table(nn.Module):
    """A table of neighbours ``[N, k]`` instead of edges."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(2 * WIDTH, HIDDEN), nn.Linear(2 * HIDDEN, HIDDEN), nn.Linear(HIDDEN, 3)

    def around(self, layer, x, neighbours):
        return layer(torch.cat([x, x[neighbours].mean(1)], -1)).relu()

    def forward(self, x, neighbours):
        return self.o(self.around(self.b, self.around(self.a, x, neighbours), neighbours))


class Padded(Table):
    """A table of neighbours in which the number of nodes stands for none."""

    def around(self, layer, x, neighbours):
        padded = torch.cat([x, x.new_zeros(1, x.size(1))])
        return layer(torch.cat([x, padded[neighbours].sum(1)], -1)).relu()


class Rows(nn.Module):
    """The ends of edges as two vectors in a list."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2 * WIDTH, HIDDEN), nn.Linear(2 * HIDDEN, 3)

    def step(self, layer, x, row, col):
        return layer(torch.cat([x, scatter(x[row], col, 0, x.size(0), "sum")], -1))

    def forward(self, x, edges):
        row, col = edges
        return self.step(self.b, self.step(self.a, x, row, col).relu(), row, col)


class Vectors(Rows):
    def forward(self, x, senders, receivers):
        return Rows.forward(self, x, (senders, receivers))


class Transposed(Rows):
    def forward(self, x, edges):
        return Rows.forward(self, x, edges.unbind(1))


class Subset(Encoder):
    """Nodes in a new order, and rows written at places."""

    def forward(self, x, edge_index, perm, slots):
        z = self.encode(x, edge_index)
        return self.score(torch.cat([z[perm], z.index_add(0, slots, z[slots])], -1))


class Nearest(nn.Module):
    def __init__(self, k, dilated=1):
        super().__init__()
        self.k, self.step, self.a, self.b, self.o = (
            k, dilated, nn.Linear(2 * WIDTH, HIDDEN), nn.Linear(2 * HIDDEN, HIDDEN), nn.Linear(HIDDEN, 3))  # fmt: skip

    def edge_conv(self, layer, x, index):
        near = x[index]
        return layer(torch.cat([x[:, None].expand_as(near), near - x[:, None]], -1)).relu().amax(1)

    def forward(self, x):
        index = torch.cdist(x, x).topk(self.k * self.step, largest=False).indices[:, :: self.step]
        return self.o(self.edge_conv(self.b, self.edge_conv(self.a, x, index), index))


class BestNodes(nn.Module):
    """The highest scores of a graph, in a vector of fixed length (SortPool)."""

    def __init__(self, k):
        super().__init__()
        self.k, self.a, self.o = k, GCNConv(WIDTH, HIDDEN), nn.Linear(HIDDEN * k, 3)

    def forward(self, x, edge_index):
        h = self.a(x, edge_index).tanh()
        return self.o(h[x[:, 0].topk(self.k).indices].flatten())


@dataclass
class Indexed:
    """A model and its arguments for any number of nodes."""

    model: Callable[[], nn.Module]
    call: Callable[[int, torch.Generator], tuple[Any, ...]]
    least: int = 5

    def arguments(self, nodes):
        return self.call(nodes, torch.Generator().manual_seed(nodes))


def numbers(*size, below, g):
    return torch.randint(below, size, generator=g)


def graph(n, g):
    return torch.randn(n, WIDTH, generator=g, dtype=torch.float64), numbers(2, 4 * n, below=n, g=g)


def table(n, g, k=4, largest=0):
    return graph(n, g)[0], numbers(n, k, below=n + largest, g=g)


TABLE = {
    "pairs [Q, 2]": Indexed(Columns, lambda n, g: (*graph(n, g), numbers(20, 2, below=n, g=g))),
    "as many pairs as nodes": Indexed(Columns, lambda n, g: (*graph(n, g), numbers(n, 2, below=n, g=g))),
    "src and dst": Indexed(Ends, lambda n, g: (*graph(n, g), numbers(20, below=n, g=g), numbers(20, below=n, g=g))),
    "seeds": Indexed(Seeds, lambda n, g: (*graph(n, g), numbers(17, below=n, g=g))),
    "sorted seeds": Indexed(Seeds, lambda n, g: (*graph(n, g), numbers(17, below=n, g=g).sort().values)),
    "different seeds": Indexed(Seeds, lambda n, g: (*graph(n, g), torch.randperm(n, generator=g)[: n // 2])),
    "the last nodes": Indexed(Seeds, lambda n, g: (*graph(n, g), torch.arange(n - 4, n))),
    "triples [Q, 3]": Indexed(Triples, lambda n, g: (*graph(n, g), numbers(15, 3, below=n, g=g))),
    "tails [Q, k]": Indexed(
        Negatives,
        lambda n, g: (
            *graph(n, g), numbers(9, below=n, g=g), numbers(9, below=3, g=g), numbers(9, 5, below=n, g=g)
        ),
    ),
    "neighbours [N, k]": Indexed(Table, table),
    "neighbours that wrap": Indexed(Table, lambda n, g: (table(n, g)[0], table(n, g)[1] - 1)),
    "padded neighbours": Indexed(Padded, lambda n, g: table(n, g, 5, 1)),
    "[row, col]": Indexed(Rows, lambda n, g: (graph(n, g)[0], list(graph(n, g)[1]))),
    "two vectors": Indexed(Vectors, lambda n, g: (graph(n, g)[0], *graph(n, g)[1])),
    "edges [E, 2]": Indexed(Transposed, lambda n, g: (graph(n, g)[0], graph(n, g)[1].t().contiguous())),
    "a permutation": Indexed(
        Subset, lambda n, g: (*graph(n, g), torch.randperm(n, generator=g), numbers(n, below=n, g=g))
    ),
    "8 nearest": Indexed(lambda: Nearest(8), lambda n, g: (graph(n, g)[0],), 8),
    "20 nearest": Indexed(lambda: Nearest(20), lambda n, g: (graph(n, g)[0],), 20),
    "9 nearest, dilated": Indexed(lambda: Nearest(9, 4), lambda n, g: (graph(n, g)[0],), 36),
    "the 12 best": Indexed(lambda: BestNodes(12), graph, 12),
}  # fmt: skip
