"""Models of molecules: PyG's and OGB's examples, chemprop, GraphDTA, pretrained GINs."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import (
    BatchNorm,
    GINEConv,
    GPSConv,
    NNConv,
    PNAConv,
    Set2Set,
    global_add_pool,
    global_mean_pool,
)
from torch_geometric.nn.models import AttentiveFP
from torch_geometric.utils import scatter

from tests.conformance.whole_models.row import ATOMS, BONDS, Whole

SOURCE = "molecules"
FULL = "x edge_index edge_attr batch"


class MPNN(nn.Module):
    """qm9_nn_conv.py: weights from edge features, a gated unit between rounds, Set2Set."""

    def __init__(self):
        super().__init__()
        self.lin0 = nn.Linear(8, 16)
        self.conv = NNConv(16, 16, nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 256)), aggr="mean")
        self.gru, self.set2set = nn.GRU(16, 16), Set2Set(16, processing_steps=2)
        self.lin1, self.lin2 = nn.Linear(32, 16), nn.Linear(16, 1)

    def forward(self, x, edge_index, edge_attr, batch):
        out = F.relu(self.lin0(x))
        h = out.unsqueeze(0)
        for _ in range(2):
            m = F.relu(self.conv(out, edge_index, edge_attr))
            out, h = self.gru(m.unsqueeze(0), h)
            out = out.squeeze(0)
        out = self.set2set(out, batch)
        return self.lin2(F.relu(self.lin1(out))).view(-1)


class PNA(nn.Module):
    def __init__(self):
        super().__init__()
        self.node_emb, self.edge_emb = nn.Embedding(ATOMS, 8), nn.Embedding(BONDS, 4)
        options = {"aggregators": ["mean", "max"], "scalers": ["identity", "amplification"], "edge_dim": 4}
        deg = torch.tensor([1, 3, 4, 2])
        self.convs = nn.ModuleList(
            PNAConv(8, 8, deg=deg, towers=2, pre_layers=1, post_layers=1, divide_input=False, **options)
            for _ in range(2)
        )
        self.batch_norms = nn.ModuleList(BatchNorm(8) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x, edge_index, edge_attr, batch):
        x, edge_attr = self.node_emb(x), self.edge_emb(edge_attr)
        for conv, batch_norm in zip(self.convs, self.batch_norms, strict=True):
            x = F.relu(batch_norm(conv(x, edge_index, edge_attr)))
        return self.mlp(global_add_pool(x, batch))


class GPS(nn.Module):
    def __init__(self, attn_type="multihead"):
        super().__init__()
        self.node_emb, self.edge_emb = nn.Embedding(ATOMS, 12), nn.Embedding(BONDS, 16)
        self.pe_norm, self.pe_lin = nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.convs = nn.ModuleList()
        for _ in range(2):
            inner = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
            self.convs.append(GPSConv(16, GINEConv(inner), heads=2, attn_type=attn_type, dropout=0.1))
        self.mlp = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x, pe, edge_index, edge_attr, batch):
        x = torch.cat([self.node_emb(x.squeeze(-1)), self.pe_lin(self.pe_norm(pe))], 1)
        edge_attr = self.edge_emb(edge_attr)
        for conv in self.convs:
            x = conv(x, edge_index, batch, edge_attr=edge_attr)
        return self.mlp(global_add_pool(x, batch))


class Fingerprint(nn.Module):
    def __init__(self):
        super().__init__()
        self.fp = AttentiveFP(8, 16, 16, edge_dim=3, num_layers=2, num_timesteps=2, dropout=0.2)
        self.lin = nn.Linear(16, 1)

    def forward(self, x, edge_index, edge_attr, batch):
        return self.lin(self.fp(x, edge_index, edge_attr, batch))


class DirectedMPNN(nn.Module):
    """chemprop: hidden states of directed bonds; a bond hears those that end where it begins."""

    def __init__(self, depth=3):
        super().__init__()
        self.depth = depth
        self.W_i, self.W_h = nn.Linear(8 + 3, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.W_o, self.ffn = nn.Linear(8 + 16, 16), nn.Sequential(nn.Dropout(0.1), nn.Linear(16, 16), nn.ReLU())
        self.out = nn.Linear(16, 2)

    def forward(self, x, edge_index, edge_attr, rev_edge_index, batch):
        h_0 = self.W_i(torch.cat([x[edge_index[0]], edge_attr], dim=1))
        h = F.relu(h_0)
        for _ in range(1, self.depth):
            into = scatter(h, edge_index[1], dim=0, dim_size=x.size(0), reduce="sum")
            m = into[edge_index[0]] - h[rev_edge_index]
            h = F.dropout(F.relu(h_0 + self.W_h(m)), 0.1, training=self.training)
        m = scatter(h, edge_index[1], dim=0, dim_size=x.size(0), reduce="sum")
        h = F.relu(self.W_o(torch.cat([x, m], dim=1)))
        return self.out(self.ffn(global_mean_pool(h, batch)))


def directed(g):
    return {**Whole("", "", nn.Identity, FULL).arguments(g)[1], "rev_edge_index": (torch.arange(g.edges) + 5) % g.edges}


MODELS = [
    Whole("MPNN", SOURCE, MPNN, FULL),
    Whole("PNA", SOURCE, PNA, "x=atom edge_index edge_attr=bond batch"),
    Whole("GPS", SOURCE, GPS, "x=atom pe edge_index edge_attr=bond batch"),
    Whole("GPS performer", SOURCE, lambda: GPS("performer"), "x=atom pe edge_index edge_attr=bond batch"),
    Whole("AttentiveFP", SOURCE, Fingerprint, FULL),
    Whole("D-MPNN", SOURCE, DirectedMPNN, directed),
]
