"""Graphs of unlike neighbours: signed weights, separate hops, mixed filters."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from tests.conformance.whole_models.parts import Propagate
from tests.conformance.whole_models.row import Whole

SOURCE = "signed and directed"
TWO = "edge_index edge_weight edge_index2=sorted_edges edge_weight2=edge_weight"


class SSSNET(nn.Module):
    """Signed mixed paths: weighted sums of hops over positive and negative edges."""

    def __init__(self, hops=2):
        super().__init__()
        self.w_p0, self.w_p1, self.w_n0, self.w_n1 = (
            nn.Linear(8, 16),
            nn.Linear(16, 16),
            nn.Linear(8, 16),
            nn.Linear(16, 16),
        )
        self.hop_p, self.hop_n = nn.Parameter(torch.rand(hops + 1)), nn.Parameter(torch.rand(hops))
        self.prop, self.prob = Propagate(), nn.Linear(32, 3)

    def forward(self, x, pos, pos_w, neg, neg_w):
        p = F.dropout(self.w_p1(F.relu(self.w_p0(x))), 0.5, self.training)
        n = F.dropout(self.w_n1(F.relu(self.w_n0(x))), 0.5, self.training)
        feat_p, curr = self.hop_p[0] * p, p
        for k in range(2):
            curr = self.prop(curr, pos, pos_w)
            feat_p = feat_p + self.hop_p[k + 1] * curr
        feat_n = self.hop_n[0] * self.prop(n, neg, neg_w)
        feat_n = feat_n + self.hop_n[1] * self.prop(self.prop(n, neg, neg_w), pos, pos_w)
        z = torch.cat([feat_p, feat_n], dim=1)
        return F.softmax(self.prob(F.normalize(z)), dim=1)


class FAGCN(nn.Module):
    """Coefficients between -1 and 1, from both ends."""

    def __init__(self, eps=0.3):
        super().__init__()
        self.eps, self.t1, self.t2 = eps, nn.Linear(8, 16), nn.Linear(16, 4)
        self.gates, self.prop = nn.ModuleList(nn.Linear(32, 1) for _ in range(2)), Propagate()

    def forward(self, x, edge_index, norm):
        h = raw = torch.relu(self.t1(F.dropout(x, 0.5, training=self.training)))
        for gate in self.gates:
            g = torch.tanh(gate(torch.cat([h[edge_index[1]], h[edge_index[0]]], dim=1))).squeeze()
            h = self.eps * raw + self.prop(h, edge_index, g * norm)
        return F.log_softmax(self.t2(h), 1)


class H2GCN(nn.Module):
    """Own, first and second neighbours side by side, without self loops."""

    def __init__(self):
        super().__init__()
        self.embed, self.prop, self.out = nn.Linear(8, 8, bias=False), Propagate(), nn.Linear(8 * 7, 4, bias=False)

    def forward(self, x, edge_index, edge_weight, edge_index2, edge_weight2):
        r = F.relu(self.embed(x))
        hs = [r]
        for _ in range(2):
            r = torch.cat([self.prop(r, edge_index, edge_weight), self.prop(r, edge_index2, edge_weight2)], dim=1)
            hs.append(r)
        return self.out(F.dropout(torch.cat(hs, dim=1), 0.5, self.training))


class ACMGCN(nn.Module):
    """Low-pass, high-pass and identity channels, mixed by attention of each node."""

    def __init__(self, width=16):
        super().__init__()
        self.low, self.high, self.own = (nn.Linear(8, width, bias=False) for _ in range(3))
        self.att, self.mix = nn.ModuleList(nn.Linear(width, 1) for _ in range(3)), nn.Linear(3, 3)
        self.prop, self.out = Propagate(), nn.Linear(width, 4)

    def forward(self, x, edge_index):
        edge_index, norm = gcn_norm(edge_index, None, x.size(0), dtype=x.dtype)
        low = F.relu(self.prop(self.low(x), edge_index, norm))
        high = self.high(x)
        high, own = F.relu(high - self.prop(high, edge_index, norm)), F.relu(self.own(x))
        scores = torch.cat([torch.sigmoid(att(h)) for att, h in zip(self.att, (low, high, own), strict=True)], dim=1)
        weight = torch.softmax(self.mix(scores), dim=1)
        return self.out(3 * (weight[:, 0:1] * low + weight[:, 1:2] * high + weight[:, 2:3] * own))


MODELS = [
    Whole("SSSNET", SOURCE, SSSNET, "x pos=edge_index pos_w=edge_weight neg=edge_index neg_w=edge_weight"),
    Whole("FAGCN", SOURCE, FAGCN, "x edge_index norm=edge_weight"),
    Whole("H2GCN", SOURCE, H2GCN, f"x {TWO}"),
    Whole("ACM-GCN", SOURCE, ACMGCN),
]
