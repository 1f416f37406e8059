"""Points, crystals and meshes: equivariant networks, crystal graphs, segmentation of point clouds."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import (
    MLP,
    CGConv,
    MessagePassing,
    MetaLayer,
    global_add_pool,
    global_mean_pool,
)
from torch_geometric.utils import scatter

from tests.conformance.whole_models.row import ATOMS, Whole

SOURCE = "points and crystals"


class EGCL(nn.Module):
    """One equivariant layer: messages from distances, positions moved along differences."""

    def __init__(self, width=16):
        super().__init__()
        self.edge_mlp = nn.Sequential(
            nn.Linear(2 * width + 1 + 3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.node_mlp = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.coord_mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1, bias=False))
        self.att_mlp = nn.Sequential(nn.Linear(width, 1), nn.Sigmoid())

    def forward(self, h, coord, edge_index, edge_attr):
        row, col = edge_index
        diff = coord[row] - coord[col]
        radial = torch.sum(diff**2, 1).unsqueeze(1)
        m = self.edge_mlp(torch.cat([h[row], h[col], radial, edge_attr], dim=1))
        m = m * self.att_mlp(m)
        moved = scatter(diff * self.coord_mlp(m), row, 0, h.size(0), "mean")
        agg = torch.zeros(h.size(0), m.size(1), dtype=h.dtype).index_add_(0, row, m)
        return h + self.node_mlp(torch.cat([h, agg], dim=1)), coord + moved


class EGNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding_in, self.embedding_out = nn.Linear(8, 16), nn.Linear(16, 4)
        self.layers = nn.ModuleList(EGCL() for _ in range(2))

    def forward(self, h, x, edges, edge_attr):
        h = self.embedding_in(h)
        for layer in self.layers:
            h, x = layer(h, x, edges, edge_attr)
        return self.embedding_out(h), x


class CFConv(MessagePassing):
    def __init__(self):
        super().__init__(aggr="add")
        self.lin1, self.lin2 = nn.Linear(16, 16, bias=False), nn.Linear(16, 16)
        self.filter = nn.Sequential(nn.Linear(10, 16), nn.Softplus(), nn.Linear(16, 16))

    def forward(self, x, edge_index, rbf, cutoff):
        return self.lin2(self.propagate(edge_index, x=self.lin1(x), W=self.filter(rbf) * cutoff.view(-1, 1)))

    def message(self, x_j, W):
        return x_j * W


class SchNet(nn.Module):
    """Continuous filters of distances, expanded in Gaussians; the neighbours are given."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(ATOMS, 16)
        self.register_buffer("offset", torch.linspace(0, 5, 10))
        self.interactions, self.lins = (
            nn.ModuleList(CFConv() for _ in range(2)),
            nn.ModuleList(nn.Linear(16, 16) for _ in range(2)),
        )
        self.lin1, self.lin2 = nn.Linear(16, 8), nn.Linear(8, 1)

    def forward(self, z, pos, edge_index, batch):
        row, col = edge_index
        d = (pos[row] - pos[col]).pow(2).sum(-1).add(1e-6).sqrt()
        rbf = torch.exp(-2.0 * (d.view(-1, 1) - self.offset) ** 2)
        cutoff = 0.5 * (torch.cos(d * 3.14159 / 10.0) + 1.0)
        h = self.embedding(z)
        for conv, lin in zip(self.interactions, self.lins, strict=True):
            h = h + lin(F.softplus(conv(h, edge_index, rbf, cutoff)))
        return global_add_pool(self.lin2(F.softplus(self.lin1(h))), batch)


class PaiNN(nn.Module):
    """Scalars and vectors of every atom: vectors mix linearly and scale by scalars."""

    def __init__(self, width=12):
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(ATOMS, width)
        self.phi = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3 * width))
        self.filter = nn.Linear(6, 3 * width)
        self.U, self.V = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 3 * width))
        self.out = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, z, pos, edge_index, batch):
        row, col = edge_index
        diff = pos[row] - pos[col]
        d = diff.norm(dim=-1, keepdim=True) + 1e-3
        steps = torch.arange(1, 7, device=pos.device)
        rbf = torch.sin(d * steps) / d
        s = self.embedding(z)
        v = torch.zeros(s.size(0), 3, self.width, dtype=pos.dtype, device=pos.device)
        ds, dv1, dv2 = torch.split(self.phi(s)[row] * self.filter(rbf), self.width, dim=-1)
        moved = v[row] * dv1.unsqueeze(1) + dv2.unsqueeze(1) * (diff / d).unsqueeze(2)
        s = s + torch.zeros_like(s).index_add(0, col, ds)
        v = v + torch.zeros_like(v).index_add(0, col, moved)
        Uv, Vv = self.U(v), self.V(v)
        avv, asv, ass = torch.split(
            self.update(torch.cat([s, (Vv**2).sum(1).add(1e-6).sqrt()], -1)), self.width, dim=-1
        )
        s = s + asv * (Uv * Vv).sum(dim=1) + ass
        v = v + avv.unsqueeze(1) * Uv
        return global_add_pool(self.out(s + (v**2).sum(1)), batch)


class GVP(nn.Module):
    """A vector perceptron: norms of mixed vectors join the scalars, and scalars gate the vectors."""

    def __init__(self, si, vi, so, vo, act=True):
        super().__init__()
        h = max(vi, vo)
        self.wh, self.wv = nn.Linear(vi, h, bias=False), nn.Linear(h, vo, bias=False)
        self.ws, self.wsv, self.act = nn.Linear(h + si, so), nn.Linear(so, vo), act

    def forward(self, s, v):
        v = v.transpose(-1, -2)
        vh = self.wh(v)
        s = self.ws(torch.cat([s, torch.sqrt(vh.pow(2).sum(-2) + 1e-8)], -1))
        v = self.wv(vh).transpose(-1, -2) * torch.sigmoid(self.wsv(s)).unsqueeze(-1)
        return (F.relu(s) if self.act else s), v


class GVPModel(nn.Module):
    """Proteins: vectors of nodes `[N, 3, 3]` and of edges `[E, 1, 3]` beside the scalars."""

    def __init__(self):
        super().__init__()
        self.W_v, self.W_e = GVP(8, 3, 16, 4), GVP(3, 1, 8, 1)
        self.message, self.node = GVP(2 * 16 + 8, 2 * 4 + 1, 16, 4), GVP(16, 4, 16, 4)
        self.out = nn.Linear(16 + 4, 3)

    def forward(self, x, v, edge_index, edge_attr, edge_v):
        s, v = self.W_v(x, v)
        es, ev = self.W_e(edge_attr, edge_v)
        row, col = edge_index
        ms, mv = self.message(torch.cat([s[row], es, s[col]], -1), torch.cat([v[row], ev, v[col]], -2))
        s = s + scatter(ms, col, 0, s.size(0), "mean")
        v = v + scatter(mv, col, 0, s.size(0), "mean")
        ds, dv = self.node(s, v)
        s, v = s + ds, v + dv
        return self.out(torch.cat([s, v.pow(2).sum(-1)], -1))


class CGCNN(nn.Module):
    """Crystals: gated messages of both atoms and the bond, twice normalised."""

    class Conv(nn.Module):
        def __init__(self, width=16):
            super().__init__()
            self.fc_full, self.bn1, self.bn2 = (
                nn.Linear(2 * width + 3, 2 * width),
                nn.BatchNorm1d(2 * width),
                nn.BatchNorm1d(width),
            )

        def forward(self, x, edge_index, edge_attr):
            src, dst = edge_index
            gated = self.bn1(self.fc_full(torch.cat([x[dst], x[src], edge_attr], dim=1)))
            gate, core = gated.chunk(2, dim=1)
            summed = torch.zeros_like(x).index_add(0, dst, torch.sigmoid(gate) * F.softplus(core))
            return F.softplus(x + self.bn2(summed))

    def __init__(self):
        super().__init__()
        self.embedding, self.convs = nn.Linear(8, 16), nn.ModuleList(self.Conv() for _ in range(2))
        self.conv_to_fc, self.fc_out = nn.Linear(16, 32), nn.Linear(32, 1)

    def forward(self, x, edge_index, edge_attr, batch):
        x = self.embedding(x)
        for conv in self.convs:
            x = conv(x, edge_index, edge_attr)
        x = global_mean_pool(x, batch)
        return self.fc_out(F.softplus(self.conv_to_fc(F.softplus(x))))


class CGConvNet(nn.Module):
    """matdeeplearn: layers before, PyG's CGConv with batch norms and skips, layers after."""

    def __init__(self):
        super().__init__()
        self.pre, self.post, self.out = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 1)
        self.convs = nn.ModuleList(CGConv(16, 3, aggr="mean", batch_norm=False) for _ in range(2))
        self.bns = nn.ModuleList(nn.BatchNorm1d(16, track_running_stats=True) for _ in range(2))

    def forward(self, x, edge_index, edge_attr, batch):
        out = F.relu(self.pre(x))
        for conv, bn in zip(self.convs, self.bns, strict=True):
            out = F.dropout(bn(conv(out, edge_index, edge_attr)), p=0.1, training=self.training)
        out = F.relu(self.post(global_mean_pool(out, batch)))
        return self.out(out).view(-1)


def mlp(*widths):
    return MLP(list(widths), act="softplus", norm=None)


class MEGEdge(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = mlp(16 * 4, 16, 16)

    def forward(self, src, dst, edge_attr, u, batch):
        return edge_attr + self.mlp(torch.cat([src, dst, edge_attr, u[batch]], dim=1))


class MEGNode(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = mlp(16 * 3, 16, 16)

    def forward(self, x, edge_index, edge_attr, u, batch):
        v_e = scatter(edge_attr, edge_index[0], dim=0, dim_size=x.size(0), reduce="mean")
        return x + self.mlp(torch.cat([x, v_e, u[batch]], dim=1))


class MEGGlobal(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = mlp(16 * 3, 16, 16)

    def forward(self, x, edge_index, edge_attr, u, batch):
        u_e = scatter(edge_attr, batch[edge_index[0]], dim=0, dim_size=u.size(0), reduce="mean")
        return u + self.mlp(torch.cat([u_e, global_mean_pool(x, batch, u.size(0)), u], dim=1))


class MEGNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.x, self.e, self.u = mlp(8, 16), mlp(3, 16), mlp(4, 16)
        self.blocks = nn.ModuleList(MetaLayer(MEGEdge(), MEGNode(), MEGGlobal()) for _ in range(2))
        self.out = mlp(32, 16, 1)

    def forward(self, x, edge_index, edge_attr, u, batch):
        x, e, u = self.x(x), self.e(edge_attr), self.u(u)
        for block in self.blocks:
            x, e, u = block(x, edge_index, e, u, batch)
        return self.out(torch.cat([global_mean_pool(x, batch, u.size(0)), u], dim=1))


Z = "z=atom pos edge_index batch"
MODELS = [
    Whole("EGNN", SOURCE, EGNN, "h=x x=pos edges=edge_index edge_attr"),
    Whole("SchNet", SOURCE, SchNet, Z),
    Whole("PaiNN", SOURCE, PaiNN, Z),
    Whole("GVP", SOURCE, GVPModel, "x v=vectors edge_index edge_attr edge_v=edge_vectors"),
    Whole("CGCNN", SOURCE, CGCNN, "x edge_index edge_attr batch"),
    Whole("matdeeplearn CGConv", SOURCE, CGConvNet, "x edge_index edge_attr batch"),
    Whole("MEGNet", SOURCE, MEGNet, "x edge_index edge_attr u batch"),
]
