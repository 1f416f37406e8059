"""Drugs: OGB's baselines, pretrained encoders, affinities to proteins, pairs of drugs."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import (
    GATConv,
    GCNConv,
    GINConv,
    MessagePassing,
    global_add_pool,
    global_max_pool,
    global_mean_pool,
)
from torch_geometric.utils import degree

from tests.conformance.whole_models.row import BONDS, LENGTH, RESIDUES, Whole

SOURCE = "molecules"
MOL = "x=atoms edge_index edge_attr=bonds batch"
DTA = "x edge_index batch target=protein"


class Encoder(nn.Module):
    """A sum of embeddings, one a column of integers: OGB's atom and bond encoders."""

    def __init__(self, width, sizes=(BONDS, BONDS)):
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size in sizes)

    def forward(self, x):
        out = 0
        for i, embedding in enumerate(self.embeddings):
            out = out + embedding(x[:, i])
        return out


class MolGINConv(MessagePassing):
    def __init__(self, width):
        super().__init__(aggr="add")
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.BatchNorm1d(2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )
        self.eps = nn.Parameter(torch.zeros(1))
        self.bond_encoder = Encoder(width)

    def forward(self, x, edge_index, edge_attr):
        out = self.propagate(edge_index, x=x, edge_attr=self.bond_encoder(edge_attr))
        return self.mlp((1 + self.eps) * x + out)

    def message(self, x_j, edge_attr):
        return F.relu(x_j + edge_attr)


class MolGCNConv(MessagePassing):
    def __init__(self, width):
        super().__init__(aggr="add")
        self.linear, self.root_emb = nn.Linear(width, width), nn.Embedding(1, width)
        self.bond_encoder = Encoder(width)

    def forward(self, x, edge_index, edge_attr):
        x = self.linear(x)
        edge_embedding = self.bond_encoder(edge_attr)
        row, col = edge_index
        deg = degree(row, x.size(0), dtype=x.dtype) + 1
        deg_inv_sqrt = deg.pow(-0.5)
        deg_inv_sqrt[deg_inv_sqrt == float("inf")] = 0
        norm = deg_inv_sqrt[row] * deg_inv_sqrt[col]
        out = self.propagate(edge_index, x=x, edge_attr=edge_embedding, norm=norm)
        return out + F.relu(x + self.root_emb.weight) * 1.0 / deg.view(-1, 1)

    def message(self, x_j, edge_attr, norm):
        return norm.view(-1, 1) * F.relu(x_j + edge_attr)


class MolGNN(nn.Module):
    """OGB's graph property baselines, with or without a virtual node."""

    def __init__(self, conv=MolGINConv, virtual=False, residual=False, jk="last"):
        super().__init__()
        self.atom_encoder = Encoder(16)
        self.convs = nn.ModuleList(conv(16) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm1d(16) for _ in range(3))
        self.virtual, self.residual, self.jk = virtual, residual, jk
        if virtual:
            self.virtualnode = nn.Embedding(1, 16)
            nn.init.constant_(self.virtualnode.weight, 0)
            self.mlps = nn.ModuleList(
                nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
                for _ in range(2)
            )
        self.graph_pred_linear = nn.Linear(16, 2)

    def forward(self, x, edge_index, edge_attr, batch):
        hs = [self.atom_encoder(x)]
        if self.virtual:
            v = self.virtualnode(torch.zeros(batch[-1].item() + 1, dtype=torch.long, device=x.device))
        for i, conv in enumerate(self.convs):
            if self.virtual:
                hs[i] = hs[i] + v[batch]
            h = self.norms[i](conv(hs[i], edge_index, edge_attr))
            h = F.dropout(h if i == 2 else F.relu(h), 0.5, training=self.training)
            hs.append(h + hs[i] if self.residual else h)
            if self.virtual and i < 2:
                v = F.dropout(self.mlps[i](global_add_pool(hs[i], batch) + v), 0.5, training=self.training)
        h = hs[-1] if self.jk == "last" else sum(hs)
        return self.graph_pred_linear(global_mean_pool(h, batch))


class PretrainedGIN(nn.Module):
    """Hu et al.: the bond embedding is added to the neighbour, and the last layer has no activation."""

    class Conv(MessagePassing):
        def __init__(self, width=16):
            super().__init__(aggr="add")
            self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
            self.edge_embedding1, self.edge_embedding2 = nn.Embedding(BONDS, width), nn.Embedding(BONDS, width)

        def forward(self, x, edge_index, edge_attr):
            edge = self.edge_embedding1(edge_attr[:, 0]) + self.edge_embedding2(edge_attr[:, 1])
            return self.propagate(edge_index, x=x, edge_attr=edge)

        def message(self, x_j, edge_attr):
            return x_j + edge_attr

        def update(self, aggr_out):
            return self.mlp(aggr_out)

    def __init__(self):
        super().__init__()
        self.x_embedding1, self.x_embedding2 = nn.Embedding(BONDS, 16), nn.Embedding(BONDS, 16)
        self.gnns = nn.ModuleList(self.Conv() for _ in range(2))
        self.batch_norms = nn.ModuleList(nn.BatchNorm1d(16) for _ in range(2))
        self.pred = nn.Linear(16, 2)

    def forward(self, x, edge_index, edge_attr, batch):
        h = self.x_embedding1(x[:, 0]) + self.x_embedding2(x[:, 1])
        for layer, (gnn, norm) in enumerate(zip(self.gnns, self.batch_norms, strict=True)):
            h = norm(gnn(h, edge_index, edge_attr))
            h = F.dropout(h if layer == 1 else F.relu(h), 0.2, training=self.training)
        return self.pred(global_mean_pool(h, batch))


class GraphDTA(nn.Module):
    """A graph network for the drug, a convolution over the protein's residues, and layers over both."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        if kind == "gin":
            make = lambda a: GINConv(nn.Sequential(nn.Linear(a, 16), nn.ReLU(), nn.Linear(16, 16)))  # noqa: E731
            self.convs = nn.ModuleList([make(8), make(16)])
            self.bns = nn.ModuleList([nn.BatchNorm1d(16), nn.BatchNorm1d(16)])
        elif kind == "gcn":
            self.convs = nn.ModuleList([GCNConv(8, 8), GCNConv(8, 16)])
        elif kind == "gat":
            self.convs = nn.ModuleList([GATConv(8, 8, heads=2, dropout=0.2), GATConv(16, 16, dropout=0.2)])
        else:
            self.convs = nn.ModuleList([GATConv(8, 8, heads=2), GCNConv(16, 16)])
        self.fc_g1 = nn.Linear(32 if kind == "gat_gcn" else 16, 16)
        self.embedding_xt, self.conv_xt = nn.Embedding(RESIDUES, 8), nn.Conv1d(LENGTH, 4, kernel_size=3)
        self.fc1_xt = nn.Linear(4 * 6, 16)
        self.fc1, self.fc2, self.out = nn.Linear(32, 32), nn.Linear(32, 16), nn.Linear(16, 1)

    def forward(self, x, edge_index, batch, target):
        for i, conv in enumerate(self.convs):
            x = F.relu(conv(x, edge_index))
            if self.kind == "gin":
                x = self.bns[i](x)
        if self.kind == "gat_gcn":
            x = torch.cat([global_max_pool(x, batch), global_mean_pool(x, batch)], dim=1)
        else:
            x = (global_add_pool if self.kind == "gin" else global_max_pool)(x, batch)
        x = F.dropout(F.relu(self.fc_g1(x)), 0.2, self.training)
        xt = self.conv_xt(self.embedding_xt(target)).view(-1, 4 * 6)
        xc = torch.cat((x, self.fc1_xt(xt)), 1)
        xc = F.dropout(F.relu(self.fc1(xc)), 0.2, self.training)
        xc = F.dropout(F.relu(self.fc2(xc)), 0.2, self.training)
        return self.out(xc)


class DeepDDS(nn.Module):
    """Two drugs and a cell line: one graph network is called for both drugs."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = GCNConv(8, 16), GCNConv(16, 16)
        self.fc = nn.Linear(16, 16)
        self.reduction = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 16))
        self.pred = nn.Sequential(nn.Linear(48, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))

    def drug(self, x, edge_index, batch):
        x = F.relu(self.conv2(F.relu(self.conv1(x, edge_index)), edge_index))
        return F.dropout(self.fc(global_max_pool(x, batch)), 0.2, self.training)

    def forward(self, x1, edge_index1, batch1, x2, edge_index2, batch2, cell):
        cell = self.reduction(F.normalize(cell, 2, 1))
        both = [self.drug(x1, edge_index1, batch1), self.drug(x2, edge_index2, batch2), cell]
        return self.pred(torch.cat(both, 1))


def four(g):
    """Two graphs more than otherwise: proteins of two are ``[2, 12]``, as edges might be."""
    return Whole("", "", nn.Identity, DTA).arguments(replace(g, graphs=g.graphs + 2))[1]


def two_drugs(g):
    return {"x1": g.x, "edge_index1": g.edge_index, "batch1": g.batch, "x2": g.x_dst,
            "edge_index2": torch.randint(g.targets, (2, g.edges + 3), generator=g.draw),
            "batch2": torch.arange(g.targets) * g.graphs // g.targets, "cell": g.fingerprint}  # fmt: skip


MODELS = [
    Whole("OGB GIN", SOURCE, MolGNN, MOL),
    Whole("OGB GIN virtual", SOURCE, lambda: MolGNN(virtual=True), MOL),
    Whole("OGB GIN virtual residual", SOURCE, lambda: MolGNN(virtual=True, residual=True, jk="sum"), MOL),
    Whole("OGB GCN", SOURCE, lambda: MolGNN(MolGCNConv), MOL),
    Whole("pretrained GIN", SOURCE, PretrainedGIN, MOL),
    Whole("GraphDTA gcn on two", SOURCE, lambda: GraphDTA("gcn"), DTA),
    *(
        Whole(f"GraphDTA {kind}", SOURCE, lambda kind=kind: GraphDTA(kind), four)
        for kind in ("gcn", "gin", "gat", "gat_gcn")
    ),
    Whole("DeepDDS", SOURCE, DeepDDS, two_drugs),
]
