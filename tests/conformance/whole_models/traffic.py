"""Models over given time steps: traffic, forecasts with attention, and temporal embeddings."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GATConv, GCNConv, GraphConv, TransformerConv
from torch_geometric.nn.models.tgn import TimeEncoder
from torch_geometric.utils import scatter

from tests.conformance.whole_models.row import TIMES, Whole

SOURCE = "temporal"
STEP, LSTM = "x edge_index edge_weight h", "x edge_index edge_weight h c"
UNROLLED, SERIES = "xs=snapshots edge_index edge_weight", "X=series edge_index edge_weight"


class DyGrEncoder(nn.Module):
    """A convolution, then an LSTM over nodes as a batch of length one."""

    def __init__(self):
        super().__init__()
        self.conv, self.recurrent, self.linear = GraphConv(8, 16), nn.LSTM(16, 16, 1), nn.Linear(16, 1)

    def forward(self, x, edge_index, edge_weight, h, c):
        y = F.relu(self.conv(x, edge_index, edge_weight))
        y, (h, c) = self.recurrent(y[None, :, :], (h[None], c[None]))
        return self.linear(F.relu(y.squeeze(0))), h.squeeze(0), c.squeeze(0)


class MPNNLSTM(nn.Module):
    """Two convolutions with norms on every snapshot, two LSTMs over time, and the input beside the result."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = GCNConv(8, 16), GCNConv(16, 16)
        self.bn1, self.bn2 = nn.BatchNorm1d(16), nn.BatchNorm1d(16)
        self.rnn1, self.rnn2 = nn.LSTM(32, 16, 1), nn.LSTM(16, 16, 1)
        self.linear = nn.Linear(32 + 8, 1)

    def forward(self, xs, edge_index, edge_weight):
        R = []
        for t in range(TIMES):
            a = F.dropout(self.bn1(F.relu(self.conv1(xs[t], edge_index, edge_weight))), 0.3, self.training)
            b = F.dropout(self.bn2(F.relu(self.conv2(a, edge_index, edge_weight))), 0.3, self.training)
            R.append(torch.cat([a, b], dim=1))
        X, (H1, _) = self.rnn1(torch.stack(R))
        X, (H2, _) = self.rnn2(X)
        return self.linear(torch.cat([H1[0], H2[0], xs[TIMES - 1]], dim=1))


class EvolveGCN(nn.Module):
    """The weight of the convolution is the state of a gated unit."""

    def __init__(self):
        super().__init__()
        self.initial_weight = nn.Parameter(torch.randn(1, 8, 8) / 3)
        self.recurrent, self.conv = nn.GRU(8, 8, 1), GCNConv(8, 8, bias=False)
        self.linear = nn.Linear(8, 1)

    def forward(self, x, edge_index, edge_weight):
        _, W = self.recurrent(self.initial_weight, self.initial_weight)
        h = x @ W.squeeze(0)
        h = scatter(h[edge_index[0]] * edge_weight.unsqueeze(-1), edge_index[1], dim=0, dim_size=x.size(0))
        return self.linear(F.relu(h))


class STGCN(nn.Module):
    """Gated convolutions over time around a graph convolution, `[B, T, N, F]`."""

    class Gate(nn.Module):
        def __init__(self, a, b):
            super().__init__()
            self.c1, self.c2, self.c3 = (nn.Conv2d(a, b, (1, 2)) for _ in range(3))

        def forward(self, X):
            X = X.permute(0, 3, 2, 1)
            H = F.relu(self.c1(X) * torch.sigmoid(self.c2(X)) + self.c3(X))
            return H.permute(0, 3, 2, 1)

    def __init__(self):
        super().__init__()
        self.t1, self.t2 = self.Gate(8, 16), self.Gate(16, 16)
        self.theta, self.linear = nn.Parameter(torch.randn(16, 16) / 4), nn.Linear(16, 1)

    def forward(self, X, A):
        H = self.t1(X)
        H = F.relu(torch.matmul(torch.einsum("ij,btjf->btif", A, H), self.theta))
        return self.linear(self.t2(H))


class ASTGCN(nn.Module):
    """Attention over nodes and over time before a convolution on the attended graph."""

    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(TIMES * 8, 16), nn.Linear(TIMES * 8, 16)
        self.theta, self.time = nn.Linear(8, 16), nn.Conv1d(16, 16, 3, padding=1)
        self.residual, self.final = nn.Conv1d(8, 16, 1), nn.Linear(16 * TIMES, 2)

    def forward(self, X, A):
        flat = X.flatten(1)
        S = torch.softmax(self.q(flat) @ self.k(flat).t() / 4, dim=-1) * A
        H = torch.einsum("ij,jft->ift", S, X)
        H = F.relu(self.theta(H.transpose(1, 2))).transpose(1, 2)
        H = F.relu(self.time(H) + self.residual(X))
        return self.final(H.reshape(H.size(0), -1))


class TemporalAttention(nn.Module):
    """tgn.py's embedding: attention with messages and encoded ages of edges, then pairs."""

    def __init__(self):
        super().__init__()
        self.time_enc, self.conv = TimeEncoder(5), TransformerConv(8, 8, heads=2, dropout=0.1, edge_dim=3 + 5)
        self.lin_src, self.lin_dst, self.lin_final = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, x, last_update, edge_index, t, msg, src, dst):
        rel_t_enc = self.time_enc(last_update[edge_index[0]] - t)
        z = self.conv(x, edge_index, torch.cat([rel_t_enc, msg], dim=-1))
        h = self.lin_src(z[src]) + self.lin_dst(z[dst])
        return self.lin_final(h.relu())


class LateGRU(nn.Module):
    """One graph attention layer on sequences folded into rows, then a GRU over each node's sequence."""

    def __init__(self):
        super().__init__()
        self.gru, self.conv = nn.GRU(8, 16, batch_first=True), GATConv(16, 8, heads=2)
        self.out = nn.Linear(16, 2)

    def forward(self, x, edge_index):
        _, h = self.gru(x)
        return self.out(F.elu(self.conv(h.squeeze(0), edge_index)))


def traffic(g):
    return {"X": g.features(g.graphs, TIMES, g.nodes, 8), "A": g.adj}


def events(g):
    return {"x": g.x, "last_update": g.time, "edge_index": g.edge_index, "t": g.edge_time, "msg": g.edge_attr,
            "src": g.seeds, "dst": g.seeds}  # fmt: skip


MODELS = [
    Whole("DyGrEncoder", SOURCE, DyGrEncoder, LSTM),
    Whole("MPNN-LSTM", SOURCE, MPNNLSTM, UNROLLED),
    Whole("EvolveGCN-O", SOURCE, EvolveGCN, "x edge_index edge_weight"),
    Whole("STGCN", SOURCE, STGCN, traffic),
    Whole("ASTGCN", SOURCE, ASTGCN, "X=series A=adj"),
    Whole("TGN embedding", SOURCE, TemporalAttention, events),
    Whole("GRU before GAT", SOURCE, LateGRU, "x=tokens edge_index"),
]
