"""Deep, attentive and spectral networks: GraphGPS, DeeperGCN, OGB's leaderboards, polynomial filters."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import (
    MLP,
    DeepGCNLayer,
    EGConv,
    GATConv,
    GatedGraphConv,
    GCNConv,
    GENConv,
    JumpingKnowledge,
    MixHopConv,
    PairNorm,
    ResGatedGraphConv,
    SAGEConv,
    global_mean_pool,
)
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import scatter

from tests.conformance.whole_models.parts import Propagate
from tests.conformance.whole_models.row import Whole

SOURCE = "deep and attentive"
BATCHED = "x edge_index batch"


class DeeperGCN(nn.Module):
    def __init__(self, block="res+"):
        super().__init__()
        self.node_encoder, self.edge_encoder = nn.Linear(8, 16), nn.Linear(3, 16)
        self.layers = nn.ModuleList()
        for _ in range(3):
            conv = GENConv(16, 16, aggr="softmax", t=1.0, learn_t=True, num_layers=2, norm="layer")
            norm, act = nn.LayerNorm(16, elementwise_affine=True), nn.ReLU(inplace=True)
            self.layers.append(DeepGCNLayer(conv, norm, act, block=block, dropout=0.1, ckpt_grad=False))
        self.lin = nn.Linear(16, 4)

    def forward(self, x, edge_index, edge_attr):
        x, edge_attr = self.node_encoder(x), self.edge_encoder(edge_attr)
        x = self.layers[0].conv(x, edge_index, edge_attr)
        for layer in self.layers[1:]:
            x = layer(x, edge_index, edge_attr)
        x = self.layers[0].act(self.layers[0].norm(x))
        return self.lin(F.dropout(x, p=0.1, training=self.training))


class MixHop(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = MixHopConv(8, 8, powers=[0, 1, 2]), nn.BatchNorm1d(24)
        self.conv2, self.norm2 = MixHopConv(24, 8, powers=[0, 1, 2]), nn.BatchNorm1d(24)
        self.lin = nn.Linear(24, 4)

    def forward(self, x, edge_index):
        x = F.dropout(self.norm1(self.conv1(x, edge_index)), 0.7, self.training)
        x = F.dropout(self.norm2(self.conv2(x, edge_index)), 0.9, self.training)
        return self.lin(x)


class JKNet(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.convs = nn.ModuleList([GCNConv(8, 16), GCNConv(16, 16), GCNConv(16, 16)])
        self.jk = JumpingKnowledge(mode, 16, 3)
        self.lin = nn.Linear(48 if mode == "cat" else 16, 4)

    def forward(self, x, edge_index):
        xs = []
        for conv in self.convs:
            x = F.dropout(F.relu(conv(x, edge_index)), 0.5, self.training)
            xs.append(x)
        return F.log_softmax(self.lin(self.jk(xs)), dim=1)


class ResGCN(nn.Module):
    """Norm, activation, dropout and skip around every layer, as benchmarks of GNNs have it."""

    def __init__(self, conv=GCNConv, norm=nn.BatchNorm1d, **options):
        super().__init__()
        self.embedding = nn.Linear(8, 16)
        self.convs = nn.ModuleList(conv(16, 16, **options) for _ in range(3))
        self.norms = nn.ModuleList(norm(16) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x, edge_index):
        h = self.embedding(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = h + F.dropout(F.relu(norm(conv(h, edge_index))), 0.1, self.training)
        return self.mlp(h)


class GatedGCN(nn.Module):
    """Edges have states: gates of both ends and themselves, normalised over neighbours."""

    class Layer(nn.Module):
        def __init__(self, width=16):
            super().__init__()
            self.A, self.B, self.C, self.D, self.E = (nn.Linear(width, width) for _ in range(5))
            self.bn_h, self.bn_e = nn.BatchNorm1d(width), nn.BatchNorm1d(width)

        def forward(self, h, e, edge_index):
            src, dst = edge_index
            e_new = self.C(e) + self.D(h)[dst] + self.E(h)[src]
            sigma = torch.sigmoid(e_new)
            top = scatter(sigma * self.B(h)[src], dst, 0, h.size(0), "sum")
            below = scatter(sigma, dst, 0, h.size(0), "sum")
            h = h + F.relu(self.bn_h(self.A(h) + top / (below + 1e-6)))
            return h, e + F.relu(self.bn_e(e_new))

    def __init__(self):
        super().__init__()
        self.embedding_h, self.embedding_e = nn.Linear(8, 16), nn.Linear(3, 16)
        self.layers, self.out = nn.ModuleList(self.Layer() for _ in range(2)), MLP([16, 8, 4], norm=None)

    def forward(self, h, edge_index, e, batch):
        h, e = self.embedding_h(h), self.embedding_e(e)
        for layer in self.layers:
            h, e = layer(h, e, edge_index)
        return self.out(global_mean_pool(h, batch))


class GPRGNN(nn.Module):
    def __init__(self, K=3):
        super().__init__()
        self.lin1, self.lin2, self.hop = nn.Linear(8, 16), nn.Linear(16, 4), Propagate()
        self.temp = nn.Parameter(0.1 * 0.9 ** torch.arange(K + 1.0))

    def forward(self, x, edge_index):
        x = F.dropout(F.relu(self.lin1(F.dropout(x, 0.5, self.training))), 0.5, self.training)
        x = self.lin2(x)
        edge_index, norm = gcn_norm(edge_index, None, num_nodes=x.size(0), dtype=x.dtype)
        hidden = x * self.temp[0]
        for k in range(1, len(self.temp)):
            x = self.hop(x, edge_index, norm)
            hidden = hidden + self.temp[k] * x
        return F.log_softmax(hidden, dim=1)


class DAGNN(nn.Module):
    """Predictions of all depths, weighed by a gate of each node."""

    def __init__(self, K=3):
        super().__init__()
        self.mlp, self.proj, self.hop, self.K = MLP([8, 16, 4], norm=None), nn.Linear(4, 1), Propagate(), K

    def forward(self, x, edge_index):
        x = self.mlp(x)
        edge_index, norm = gcn_norm(edge_index, None, x.size(0), dtype=x.dtype)
        preds = [x]
        for _ in range(self.K):
            x = self.hop(x, edge_index, norm)
            preds.append(x)
        pps = torch.stack(preds, dim=1)
        retain = torch.sigmoid(self.proj(pps).squeeze(-1)).unsqueeze(1)
        return F.log_softmax(torch.matmul(retain, pps).squeeze(1), dim=1)


class GGNN(nn.Module):
    """Gated rounds, and a soft attention readout of state and input."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate, self.value = GatedGraphConv(16, 2), nn.Linear(24, 8), nn.Linear(16, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x, edge_index, batch):
        h = self.conv(x, edge_index)
        r = torch.sigmoid(self.gate(torch.cat([h, x], 1))) * torch.tanh(self.value(h))
        return self.out(torch.tanh(scatter(r, batch, dim=0, dim_size=int(batch.max()) + 1, reduce="sum")))


def egc():
    return EGConv(16, 16, aggregators=["sum", "mean"], num_heads=4, num_bases=2)


MODELS = [
    Whole("DeeperGCN", SOURCE, DeeperGCN, "x edge_index edge_attr"),
    Whole("DeeperGCN dense", SOURCE, lambda: DeeperGCN("res"), "x edge_index edge_attr"),
    Whole("MixHop", SOURCE, MixHop),
    *(Whole(f"JKNet {mode}", SOURCE, lambda mode=mode: JKNet(mode)) for mode in ("cat", "max", "lstm")),
    Whole("ResGCN", SOURCE, ResGCN),
    Whole("ResGCN pair norm", SOURCE, lambda: ResGCN(norm=lambda _: PairNorm())),
    Whole("residual SAGE layer norm", SOURCE, lambda: ResGCN(SAGEConv, nn.LayerNorm)),
    Whole("ResGatedGCN", SOURCE, lambda: ResGCN(ResGatedGraphConv)),
    Whole("residual GAT", SOURCE, lambda: ResGCN(GATConv, heads=2, concat=False)),
    Whole("EGC", SOURCE, lambda: ResGCN(lambda *_: egc())),
    Whole("GatedGCN", SOURCE, GatedGCN, "h=x edge_index e=edge_attr batch"),
    Whole("GPRGNN", SOURCE, GPRGNN),
    Whole("DAGNN", SOURCE, DAGNN),
    Whole("GGNN", SOURCE, GGNN, BATCHED),
]
