"""More layers as users write them: relations, embeddings, other ranks, two kinds of nodes."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import MessagePassing


class Relational(MessagePassing):
    """One weight a relation, by bmm."""

    def __init__(self, relations=3):
        super().__init__(aggr="mean")
        self.weight, self.root = nn.Parameter(torch.randn(relations, 8, 6)), nn.Linear(8, 6)

    def forward(self, x, edge_index, edge_type):
        return self.propagate(edge_index, x=x, edge_type=edge_type) + self.root(x)

    def message(self, x_j, edge_type):
        return torch.bmm(x_j.unsqueeze(1), self.weight[edge_type]).squeeze(1)


class RelationalEinsum(Relational):
    """One weight a relation, by einsum."""

    def message(self, x_j, edge_type):
        return torch.einsum("ei,eio->eo", x_j, self.weight.index_select(0, edge_type))


class Chosen(Relational):
    """One linear layer a relation, chosen by torch.where."""

    def __init__(self):
        super().__init__()
        self.lins = nn.ModuleList(nn.Linear(8, 6) for _ in range(3))

    def message(self, x_j, edge_type):
        out = self.lins[0](x_j)
        for number, lin in enumerate(self.lins):
            out = torch.where((edge_type == number).unsqueeze(-1), lin(x_j), out)
        return out


class TypedEdges(MessagePassing):
    """Types of edges as embeddings that are added to the neighbour."""

    def __init__(self, join="add"):
        super().__init__(aggr="add")
        self.join, self.emb = join, nn.Embedding(3, 8)
        self.lin = nn.Linear(16 if join == "cat" else 8, 6)

    def forward(self, x, edge_index, edge_type):
        return self.propagate(edge_index, x=x, edge_emb=self.emb(edge_type))

    def message(self, x_j, edge_emb):
        h = torch.cat([x_j, edge_emb], dim=-1) if self.join == "cat" else x_j + edge_emb
        return self.lin(h.relu())


class ThreeDimensional(MessagePassing):
    """Node features [N, 4, 8] with node_dim=0."""

    def __init__(self):
        super().__init__(aggr="mean", node_dim=0)
        self.lin, self.root = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=self.lin(x)) + self.root(x)

    def message(self, x_j):
        return x_j.relu()


class Bipartite(MessagePassing):
    """Sources and targets with linear layers of their own."""

    def __init__(self):
        super().__init__(aggr="add")
        self.source, self.target = nn.Linear(8, 6), nn.Linear(5, 6)

    def forward(self, x, edge_index):
        pair = (self.source(x[0]), self.target(x[1]))
        return self.propagate(edge_index, x=pair, size=(x[0].size(0), x[1].size(0)))

    def message(self, x_i, x_j):
        return torch.tanh(x_i + x_j)

    def update(self, aggr_out, x):
        return F.relu(aggr_out + x[1])


class HeadsFromRows(MessagePassing):
    """Heads that were stacked as rows, as HGTConv has them, become an axis of their own."""

    def __init__(self):
        super().__init__(aggr="add", node_dim=0)
        self.lin, self.out = nn.Linear(8, 6), nn.Linear(12, 5)

    def forward(self, x, edge_index):
        heads = self.lin(torch.cat([x, x.sigmoid()])).view(2, -1, 6).transpose(0, 1)
        return self.out(self.propagate(edge_index, x=heads).reshape(-1, 12))

    def message(self, x_j):
        return x_j
