"""Embeddings without labels, relations between entities, recommendation."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import (
    MLP,
    GATConv,
    GCNConv,
    GINConv,
    LGConv,
    RGCNConv,
    SAGEConv,
    global_add_pool,
)

from tests.conformance.whole_models.row import ATOMS, Whole

SOURCE = "links"
PAIRS = "x edge_index edge_label_index=pairs"


class LightGCN(nn.Module):
    """Written by hand on given embeddings: a weighted sum over layers, and scores of pairs."""

    def __init__(self, layers=2):
        super().__init__()
        self.lin = nn.Linear(8, 16)
        self.convs = nn.ModuleList(LGConv() for _ in range(layers))
        self.alpha = nn.Parameter(torch.full((layers + 1,), 1 / (layers + 1)), requires_grad=False)

    def forward(self, x, edge_index, edge_label_index):
        x = self.lin(x)
        out = x * self.alpha[0]
        for i, conv in enumerate(self.convs):
            x = conv(x, edge_index)
            out = out + x * self.alpha[i + 1]
        src, dst = edge_label_index
        return (out[src] * out[dst]).sum(dim=-1)


class NGCF(nn.Module):
    """Neighbours, and their products with the node itself, through layers of their own."""

    def __init__(self):
        super().__init__()
        self.W1 = nn.ModuleList([nn.Linear(8, 16), nn.Linear(16, 16)])
        self.W2 = nn.ModuleList([nn.Linear(8, 16), nn.Linear(16, 16)])
        self.prop = LGConv()

    def forward(self, x, edge_index, users, items):
        outs = []
        for w1, w2 in zip(self.W1, self.W2, strict=True):
            side = self.prop(x, edge_index)
            x = F.leaky_relu(w1(side + x) + w2(side * x), 0.2)
            x = F.dropout(x, 0.1, self.training)
            outs.append(x)
        z = torch.cat(outs, dim=1)
        return (z[users] * z[items]).sum(-1)


class RelationalLinks(nn.Module):
    """rgcn_link_pred.py: entities by number, two relational layers, DistMult."""

    def __init__(self, decoder="distmult"):
        super().__init__()
        self.node_emb = nn.Embedding(9, 16)
        self.conv1 = RGCNConv(16, 16, 3, num_blocks=4)
        self.conv2 = RGCNConv(16, 16, 3, num_blocks=4)
        self.rel_emb = nn.Parameter(torch.randn(3, 16))
        self.decoder = decoder

    def forward(self, n_id, edge_index, edge_type, edge_label_index, edge_label_type):
        x = self.conv1(self.node_emb(n_id), edge_index, edge_type).relu_()
        x = F.dropout(x, p=0.2, training=self.training)
        z = self.conv2(x, edge_index, edge_type)
        z_src, z_dst, rel = z[edge_label_index[0]], z[edge_label_index[1]], self.rel_emb[edge_label_type]
        if self.decoder == "distmult":
            return torch.sum(z_src * rel * z_dst, dim=1)
        return -(z_src + rel - z_dst).norm(p=1, dim=-1)


class CompGCN(nn.Module):
    """Relations have embeddings that a layer updates too; a message is neighbour times relation."""

    def __init__(self):
        super().__init__()
        self.rel = nn.Embedding(3, 8)
        self.w_in, self.w_loop, self.w_rel = nn.Linear(8, 16, False), nn.Linear(8, 16, False), nn.Linear(8, 16, False)
        self.bn, self.score = nn.BatchNorm1d(16), nn.Linear(16, 4)

    def forward(self, x, edge_index, edge_type):
        src, dst = edge_index
        message = self.w_in(x[src] * self.rel(edge_type))
        out = torch.zeros(x.size(0), 16, dtype=x.dtype, device=x.device).index_add_(0, dst, message)
        out = torch.tanh(self.bn(out / 2 + self.w_loop(x) / 2))
        return self.score(out), self.w_rel(self.rel.weight)


class UnsupervisedSAGE(nn.Module):
    """graph_sage_unsup.py: embeddings that are normalised at the end."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = SAGEConv(8, 16), SAGEConv(16, 16)
        self.head = nn.Linear(16, 8)

    def forward(self, x, edge_index, src, dst):
        h = self.head(self.conv2(self.conv1(x, edge_index).relu(), edge_index))
        h = F.normalize(h, dim=-1)
        return (h[src] * h[dst]).sum(dim=-1)


class InfomaxEncoder(nn.Module):
    """Deep graph infomax as it is used afterwards: patches scored against their summary."""

    def __init__(self):
        super().__init__()
        self.conv, self.prelu = GCNConv(8, 32), nn.PReLU(32)
        self.weight = nn.Parameter(torch.randn(32, 32) / 6)

    def forward(self, x, edge_index):
        z = self.prelu(self.conv(x, edge_index))
        summary = torch.sigmoid(z.mean(dim=0))
        return torch.sigmoid(torch.matmul(z, torch.matmul(self.weight, summary)))


class InfoGraph(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [GINConv(MLP([8, 16, 16], norm=None)), GINConv(MLP([16, 16, 16], norm=None))]
        self.convs = nn.ModuleList(layers)
        self.local_d, self.global_d = MLP([32, 16, 16], norm=None), MLP([32, 16, 16], norm=None)

    def forward(self, x, edge_index, batch):
        xs = []
        for conv in self.convs:
            x = F.relu(conv(x, edge_index))
            xs.append(x)
        m = torch.cat(xs, 1)
        y = torch.cat([global_add_pool(h, batch) for h in xs], 1)
        return torch.mm(self.local_d(m), self.global_d(y).t())


class SRGNN(nn.Module):
    """Session-based recommendation: attention of every item with the last one of its session."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(ATOMS, 16)
        self.conv = GATConv(16, 16, heads=1)
        self.w1, self.w2, self.q = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 1)
        self.w3 = nn.Linear(32, 16)

    def forward(self, x, edge_index, batch, last):
        h = F.relu(self.conv(self.embedding(x), edge_index))
        v_n = h[last]
        alpha = self.q(torch.sigmoid(self.w1(v_n)[batch] + self.w2(h)))
        s_g = global_add_pool(alpha * h, batch)
        s_h = self.w3(torch.cat([v_n, s_g], dim=-1))
        return torch.mm(s_h, self.embedding.weight.T)


def relations(g):
    return {"n_id": g.index, "edge_index": g.edge_index, "edge_type": g.edge_type, "edge_label_index": g.pairs,
            "edge_label_type": torch.arange(g.targets) % 3}  # fmt: skip


def session(g):
    return {"x": g.atom, "edge_index": g.edge_index, "batch": g.batch, "last": g.ptr[1:] - 1}


MODELS = [
    Whole("LightGCN on features", SOURCE, LightGCN, PAIRS, expect="nothing"),
    Whole("NGCF", SOURCE, NGCF, "x edge_index users=seeds items=seeds"),
    Whole("RGCN DistMult", SOURCE, RelationalLinks, relations),
    Whole("RGCN TransE", SOURCE, lambda: RelationalLinks("transe"), relations),
    Whole("CompGCN", SOURCE, CompGCN, "x edge_index edge_type"),
    Whole("unsupervised SAGE", SOURCE, UnsupervisedSAGE, "x edge_index src=seeds dst=seeds"),
    Whole("infomax", SOURCE, InfomaxEncoder),
    Whole("InfoGraph", SOURCE, InfoGraph, "x edge_index batch"),
    Whole(
        "SR-GNN",
        SOURCE,
        SRGNN,
        session,
    ),
]
