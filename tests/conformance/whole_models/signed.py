"""Signed and directed graphs, as in torch_geometric_signed_directed, and graphs of unlike neighbours."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GATConv, MessagePassing, SAGEConv, SignedConv
from torch_geometric.utils import scatter

from tests.conformance.whole_models.parts import Propagate
from tests.conformance.whole_models.row import Whole

SOURCE = "signed and directed"
TWO = "edge_index edge_weight edge_index2=sorted_edges edge_weight2=edge_weight"
SIGNS = "x pos=edge_index neg=edge_index"


class DiGCNConv(MessagePassing):
    def __init__(self, inside, outside):
        super().__init__(aggr="add")
        self.weight, self.bias = nn.Parameter(torch.randn(inside, outside) / 4), nn.Parameter(torch.zeros(outside))

    def forward(self, x, edge_index, edge_weight):
        return self.propagate(edge_index, x=x @ self.weight, norm=edge_weight) + self.bias

    def message(self, x_j, norm):
        return norm.view(-1, 1) * x_j


class DiGCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = DiGCNConv(8, 16), DiGCNConv(16, 16)
        self.linear = nn.Linear(16, 4)

    def forward(self, x, edge_index, edge_weight):
        x = F.relu(self.conv1(x, edge_index, edge_weight))
        x = F.dropout(x, p=0.5, training=self.training)
        x = F.relu(self.conv2(x, edge_index, edge_weight))
        return F.log_softmax(self.linear(x), dim=1)


class InceptionBlock(nn.Module):
    def __init__(self, inside, outside):
        super().__init__()
        self.ln, self.conv1, self.conv2 = (
            nn.Linear(inside, outside),
            DiGCNConv(inside, outside),
            DiGCNConv(inside, outside),
        )

    def forward(self, x, ei, ew, ei2, ew2):
        return self.ln(x), self.conv1(x, ei, ew), self.conv2(x, ei2, ew2)


class DiGCNInception(nn.Module):
    def __init__(self):
        super().__init__()
        self.ib1, self.ib2, self.out = InceptionBlock(8, 16), InceptionBlock(16, 16), nn.Linear(16, 4)

    def forward(self, x, edge_index, edge_weight, edge_index2, edge_weight2):
        for block in (self.ib1, self.ib2):
            x0, x1, x2 = block(x, edge_index, edge_weight, edge_index2, edge_weight2)
            x = F.dropout(x0 + x1 + x2, p=0.3, training=self.training)
        return F.log_softmax(self.out(x), dim=1)


class MagNet(nn.Module):
    """Real and imaginary parts side by side; the phase of an edge turns between them."""

    class Conv(nn.Module):
        def __init__(self, inside, outside, K=2):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(K, inside, outside) / 4)
            self.bias, self.prop = nn.Parameter(torch.zeros(outside)), Propagate()

        def forward(self, real, imag, edge_index, cos, sin):
            rr, ii = self.prop(real, edge_index, cos), self.prop(imag, edge_index, sin)
            ri, ir = self.prop(imag, edge_index, cos), self.prop(real, edge_index, sin)
            out_real = real @ self.weight[0] + (rr - ii) @ self.weight[1]
            out_imag = imag @ self.weight[0] + (ri + ir) @ self.weight[1]
            return out_real + self.bias, out_imag + self.bias

    def __init__(self, q=0.25):
        super().__init__()
        self.q, self.c1, self.c2 = q, self.Conv(8, 16), self.Conv(16, 16)
        self.conv1d = nn.Conv1d(32, 4, kernel_size=1)

    def forward(self, real, imag, edge_index, edge_weight):
        theta = 2 * 3.14159 * self.q * edge_weight
        cos, sin = torch.cos(theta), torch.sin(theta)
        for conv in (self.c1, self.c2):
            real, imag = conv(real, imag, edge_index, cos, sin)
            mask = 1.0 * (real >= 0)
            real, imag = mask * real, mask * imag
        x = F.dropout(torch.cat((real, imag), dim=-1), 0.5, training=self.training)
        x = self.conv1d(x.unsqueeze(0).permute((0, 2, 1)))
        return F.log_softmax(x, dim=1).permute(2, 1, 0).squeeze(2)


class DirGNN(nn.Module):
    """In- and out-neighbours have layers of their own, weighed by alpha."""

    def __init__(self, jk="max"):
        super().__init__()
        self.inward = nn.ModuleList([SAGEConv(8, 16, root_weight=False), SAGEConv(16, 16, root_weight=False)])
        self.outward = nn.ModuleList([SAGEConv(8, 16, root_weight=False), SAGEConv(16, 16, root_weight=False)])
        self.own = nn.ModuleList([nn.Linear(8, 16), nn.Linear(16, 16)])
        self.jk, self.lin = jk, nn.Linear(16 if jk == "max" else 32, 4)

    def forward(self, x, edge_index):
        xs = []
        for own, a, b in zip(self.own, self.inward, self.outward, strict=True):
            x = own(x) + 0.5 * a(x, edge_index) + 0.5 * b(x, edge_index.flip(0))
            x = F.dropout(F.relu(x), 0.4, self.training)
            xs.append(x)
        x = torch.stack(xs, dim=-1).max(dim=-1)[0] if self.jk == "max" else torch.cat(xs, dim=-1)
        return self.lin(x)


class DGCN(nn.Module):
    """First- and second-order proximity by three convolutions of one weight."""

    def __init__(self):
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(8, 16, bias=False), nn.Linear(48, 16, bias=False)
        self.gconv, self.bias1, self.conv1 = Propagate(), nn.Parameter(torch.zeros(1, 16)), nn.Conv1d(48, 4, 1)

    def forward(self, x, edge_index, edge_in, in_w, edge_out, out_w):
        ones = torch.ones(edge_index.size(1), dtype=x.dtype, device=x.device)
        for lin in (self.lin1, self.lin2):
            h = lin(x)
            three = [self.gconv(h, edge_index, ones), self.gconv(h, edge_in, in_w), self.gconv(h, edge_out, out_w)]
            x = F.relu(torch.cat([y + self.bias1 for y in three], axis=-1))
        x = self.conv1(x.unsqueeze(0).permute((0, 2, 1)))
        return F.log_softmax(x.permute((0, 2, 1)).squeeze(0), dim=1)


class SGCN(nn.Module):
    """Balanced and unbalanced halves, and a classifier of the sign of a pair."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = SignedConv(8, 8, True), SignedConv(8, 8, False)
        self.weight = nn.Linear(16, 16)
        self.lin = nn.Linear(32, 3)

    def forward(self, x, pos_edge_index, neg_edge_index, pairs):
        z = torch.tanh(self.conv1(x, pos_edge_index, neg_edge_index))
        z = torch.tanh(self.weight(torch.tanh(self.conv2(z, pos_edge_index, neg_edge_index))))
        return self.lin(torch.cat([z[pairs[0]], z[pairs[1]]], dim=1))


class SiGAT(nn.Module):
    """One attention layer for each motif, and an MLP over all of them."""

    def __init__(self):
        super().__init__()
        self.aggs = nn.ModuleList(GATConv(8, 8) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(8 * 5, 16), nn.Tanh(), nn.Linear(16, 8))

    def forward(self, x, pos, neg):
        edges = [pos, neg, pos.flip(0), neg.flip(0)]
        return self.mlp(torch.cat([x] + [agg(x, e) for agg, e in zip(self.aggs, edges, strict=True)], 1))


class SNEA(nn.Module):
    """Masked attention over both signs together."""

    class Half(nn.Module):
        def __init__(self, inside, outside):
            super().__init__()
            self.lin_b, self.lin_u = nn.Linear(inside, outside), nn.Linear(inside, outside)
            self.alpha_b, self.alpha_u = nn.Linear(2 * outside, 1), nn.Linear(2 * outside, 1)

        def attend(self, own, other, edge_index, alpha):
            src, dst = edge_index
            score = torch.exp(torch.tanh(alpha(torch.cat([own[dst], other[src]], dim=-1))))
            total = scatter(score, dst, dim=0, dim_size=own.size(0)) + 1e-6
            return scatter(other[src] * score, dst, dim=0, dim_size=own.size(0)) / total

        def forward(self, x_b, x_u, pos, neg):
            b, u = self.lin_b(x_b), self.lin_u(x_u)
            out_b = self.attend(b, b, pos, self.alpha_b) + self.attend(b, u, neg, self.alpha_b)
            out_u = self.attend(u, u, pos, self.alpha_u) + self.attend(u, b, neg, self.alpha_u)
            return torch.tanh(out_b), torch.tanh(out_u)

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.weight = self.Half(8, 8), self.Half(8, 8), nn.Linear(16, 8)

    def forward(self, x, pos, neg):
        b, u = self.conv1(x, x, pos, neg)
        b, u = self.conv2(b, u, pos, neg)
        return self.weight(torch.cat([b, u], dim=-1))


MODELS = [
    Whole("DiGCN", SOURCE, DiGCN, "x edge_index edge_weight"),
    Whole("DiGCN inception", SOURCE, DiGCNInception, f"x {TWO}"),
    Whole("MagNet", SOURCE, MagNet, "real=x imag=x edge_index edge_weight"),
    Whole("DirGNN", SOURCE, DirGNN),
    Whole("DirGNN cat", SOURCE, lambda: DirGNN("cat")),
    Whole(
        "DGCN", SOURCE, DGCN, "x edge_index edge_in=edge_index in_w=edge_weight edge_out=edge_index out_w=edge_weight"
    ),
    Whole("SGCN", SOURCE, SGCN, "x pos_edge_index=edge_index neg_edge_index=edge_index pairs"),
    Whole("SiGAT", SOURCE, SiGAT, SIGNS),
    Whole("SNEA", SOURCE, SNEA, SIGNS),
]
