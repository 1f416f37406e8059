"""Point clouds and meshes on given neighbours, and models of bonds and angles."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import (
    MLP,
    EdgeConv,
    FeaStConv,
    GMMConv,
    PointNetConv,
    PointTransformerConv,
    PPFConv,
    global_add_pool,
    global_max_pool,
    global_mean_pool,
)
from torch_geometric.utils import scatter, softmax

from tests.conformance.whole_models.row import ATOMS, Whole

SOURCE = "points and angles"


class ALIGNN(nn.Module):
    """Bonds hear of the angles they form, then atoms of bonds; both by edge-gated convolutions."""

    class Gated(nn.Module):
        def __init__(self, width=16):
            super().__init__()
            self.src_gate, self.dst_gate, self.edge_gate = (nn.Linear(width, width) for _ in range(3))
            self.src_update, self.dst_update = nn.Linear(width, width), nn.Linear(width, width)
            self.bn_nodes, self.bn_edges = nn.BatchNorm1d(width), nn.BatchNorm1d(width)

        def forward(self, x, edge_index, e):
            src, dst = edge_index
            m = self.src_gate(x)[src] + self.dst_gate(x)[dst] + self.edge_gate(e)
            sigma = torch.sigmoid(m)
            top = torch.zeros_like(x).index_add(0, dst, sigma * self.dst_update(x)[src])
            below = torch.zeros_like(x).index_add(0, dst, sigma)
            x = x + F.silu(self.bn_nodes(self.src_update(x) + top / (below + 1e-6)))
            return x, e + F.silu(self.bn_edges(m))

    def __init__(self):
        super().__init__()
        self.atom, self.bond, self.angle = nn.Linear(8, 16), nn.Linear(3, 16), nn.Linear(1, 16)
        self.edge_update, self.node_update = self.Gated(), self.Gated()
        self.fc = nn.Linear(16, 1)

    def forward(self, x, edge_index, edge_attr, line, angle, batch):
        x, y, z = self.atom(x), self.bond(edge_attr), self.angle(torch.cos(angle).unsqueeze(-1))
        y, z = self.edge_update(y, line, z)
        x, y = self.node_update(x, edge_index, y)
        return self.fc(global_mean_pool(x, batch)).squeeze(-1)


class DimeNetLike(nn.Module):
    """Directional messages: each edge's embedding is updated from the edges into its source."""

    def __init__(self):
        super().__init__()
        self.emb, self.lin = nn.Embedding(ATOMS, 16), nn.Linear(3 * 16, 16)
        self.rbf, self.sbf = nn.Linear(3, 16), nn.Linear(4, 16)
        self.ji, self.kj, self.down, self.up = (nn.Linear(16, 16) for _ in range(4))
        self.out = nn.Sequential(nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, z, edge_index, rbf, line, angle, batch):
        i, j = edge_index
        kj, ji = line
        r = F.silu(self.rbf(rbf))
        x = F.silu(self.lin(torch.cat([self.emb(z)[i], self.emb(z)[j], r], dim=-1)))
        basis = torch.stack([torch.cos(k * angle) for k in range(4)], dim=-1)
        x_kj = F.silu(self.down(F.silu(self.kj(x)) * r))
        x_kj = scatter(x_kj[kj] * self.sbf(basis), ji, dim=0, dim_size=x.size(0), reduce="sum")
        x = x + F.silu(self.ji(x)) + F.silu(self.up(x_kj))
        nodes = scatter(r * x, i, dim=0, dim_size=z.size(0), reduce="sum")
        return global_add_pool(self.out(nodes), batch)


class PointNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = PointNetConv(MLP([3 + 3, 16, 16], norm="batch_norm"), add_self_loops=False)
        self.conv2 = PointNetConv(MLP([16 + 3, 16, 32], norm="batch_norm"), add_self_loops=False)
        self.mlp = MLP([32, 16, 4], dropout=0.5, norm=None)

    def forward(self, pos, edge_index, batch):
        x = self.conv1(pos, pos, edge_index).relu()
        x = self.conv2(x, pos, edge_index).relu()
        return self.mlp(global_max_pool(x, batch)).log_softmax(dim=-1)


class SetAbstraction(nn.Module):
    """Part segmentation: down to the targets, and back by inverse distances."""

    def __init__(self):
        super().__init__()
        self.conv = PointNetConv(MLP([8 + 3, 16, 16], norm=None), add_self_loops=False)
        self.up, self.lin = MLP([16 + 8, 16, 16], norm=None), nn.Linear(16, 4)

    def forward(self, x, pos, pos_dst, edge_index):
        h = self.conv((x, None), (pos, pos_dst), edge_index)
        src, dst = edge_index
        w = 1.0 / ((pos[src] - pos_dst[dst]).pow(2).sum(-1, keepdim=True) + 0.1)
        total = torch.zeros(x.size(0), 1, dtype=x.dtype, device=x.device).index_add(0, src, w)
        back = torch.zeros(x.size(0), h.size(1), dtype=x.dtype, device=x.device).index_add(0, src, w * h[dst])
        back = back / total.clamp(min=1e-6)
        return self.lin(self.up(torch.cat([back, x], dim=1))).log_softmax(dim=-1)


class DGCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = EdgeConv(MLP([2 * 3, 16, 16]), "max"), EdgeConv(MLP([2 * 16, 16]), "max")
        self.lin1 = nn.Linear(32, 32)
        self.mlp = MLP([32, 16, 4], dropout=0.5, norm=None)

    def forward(self, pos, edge_index, batch):
        x1 = self.conv1(pos, edge_index)
        x2 = self.conv2(x1, edge_index)
        out = self.lin1(torch.cat([x1, x2], dim=1))
        return F.log_softmax(self.mlp(global_max_pool(out, batch)), dim=1)


class PointTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.lin_in, self.lin_out = MLP([8, 16], plain_last=False), nn.Linear(16, 16), nn.Linear(16, 16)
        self.conv = PointTransformerConv(
            16, 16, pos_nn=MLP([3, 16, 16], norm=None), attn_nn=MLP([16, 16, 16], norm=None)
        )
        self.leave = MLP([16, 16, 4], norm=None)

    def forward(self, x, pos, edge_index, batch):
        x = self.enter(x)
        x = x + self.lin_out(self.conv(self.lin_in(x).relu(), pos, edge_index)).relu()
        return self.leave(global_mean_pool(x, batch))


class PPFNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = PPFConv(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16)), add_self_loops=False)
        self.conv2 = PPFConv(nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 16)), add_self_loops=False)
        self.classifier = nn.Linear(16, 4)

    def forward(self, pos, normal, edge_index, batch):
        x = self.conv1(None, pos, normal, edge_index).relu()
        x = self.conv2(x, pos, normal, edge_index).relu()
        return self.classifier(global_max_pool(x, batch))


class MeshFeaSt(nn.Module):
    """faust.py with FeaStConv: correspondences on a mesh."""

    def __init__(self):
        super().__init__()
        self.lin0, self.conv1, self.conv2 = nn.Linear(3, 8), FeaStConv(8, 16, heads=2), FeaStConv(16, 16, heads=2)
        self.lin1, self.lin2 = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x, edge_index):
        x = F.elu(self.lin0(x))
        x = F.elu(self.conv1(x, edge_index))
        x = F.elu(self.conv2(x, edge_index))
        x = F.dropout(F.elu(self.lin1(x)), training=self.training)
        return F.log_softmax(self.lin2(x), dim=1)


class MoNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = GMMConv(8, 16, dim=3, kernel_size=3), GMMConv(16, 16, dim=3, kernel_size=3)
        self.fc1, self.fc2 = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x, edge_index, pseudo, batch):
        x = F.elu(self.conv1(x, edge_index, pseudo))
        x = F.elu(self.conv2(x, edge_index, pseudo))
        x = F.elu(self.fc1(global_mean_pool(x, batch)))
        return F.log_softmax(self.fc2(F.dropout(x, training=self.training)), dim=1)


class MeshGraphNet(nn.Module):
    """Simulation: encode nodes and edges, process with skips and layer norms, decode."""

    def __init__(self):
        super().__init__()
        self.node, self.edge = self.block(8, 16), self.block(3, 16)
        self.edges = nn.ModuleList(self.block(48, 16) for _ in range(2))
        self.nodes = nn.ModuleList(self.block(32, 16) for _ in range(2))
        self.decoder = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))

    @staticmethod
    def block(a, b):
        return nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Linear(b, b), nn.LayerNorm(b))

    def forward(self, x, edge_index, edge_attr):
        x, e = self.node(x), self.edge(edge_attr)
        for edge, node in zip(self.edges, self.nodes, strict=True):
            e = edge(torch.cat([x[edge_index[0]], x[edge_index[1]], e], dim=1)) + e
            x = node(torch.cat([x, scatter(e, edge_index[1], 0, x.size(0), "sum")], dim=1)) + x
        return self.decoder(x)


class EquivariantAttention(nn.Module):
    """Attention between neighbours, biased by distances: the invariant part of SE(3) transformers."""

    def __init__(self, heads=2, width=8):
        super().__init__()
        self.heads, self.width = heads, width
        self.q, self.k, self.v = (nn.Linear(8, heads * width) for _ in range(3))
        self.bias, self.out = nn.Linear(1, heads), nn.Linear(heads * width, 16)
        self.move, self.lin = nn.Linear(16, 1), nn.Linear(16, 4)

    def forward(self, x, pos, edge_index):
        src, dst = edge_index
        diff = pos[src] - pos[dst]
        d = diff.norm(dim=-1, keepdim=True)
        q = self.q(x).view(-1, self.heads, self.width)[dst]
        k = self.k(x).view(-1, self.heads, self.width)[src]
        v = self.v(x).view(-1, self.heads, self.width)[src]
        alpha = softmax((q * k).sum(-1) / self.width**0.5 + self.bias(d), dst, num_nodes=x.size(0))
        out = torch.zeros(x.size(0), self.heads, self.width, dtype=x.dtype, device=x.device)
        out = self.out(out.index_add(0, dst, alpha.unsqueeze(-1) * v).flatten(1)).relu()
        moved = torch.zeros_like(pos).index_add(0, dst, diff * self.move(out)[dst])
        return self.lin(out), pos + moved


ANGLES = "line angle batch"
MODELS = [
    Whole("ALIGNN", SOURCE, ALIGNN, f"x edge_index edge_attr {ANGLES}"),
    Whole("DimeNet given triplets", SOURCE, DimeNetLike, f"z=atom edge_index rbf=edge_attr {ANGLES}"),
    Whole("PointNet", SOURCE, PointNet, "pos edge_index batch"),
    Whole("PointNet++ segmentation", SOURCE, SetAbstraction, lambda g: {
        "x": g.x, "pos": g.pos, "pos_dst": g.features(g.targets, 3), "edge_index": g.bipartite}),
    Whole("DGCNN", SOURCE, DGCNN, "pos edge_index batch"),
    Whole("PointTransformer", SOURCE, PointTransformer, "x pos edge_index batch"),
    Whole("PPFNet", SOURCE, PPFNet, "pos normal edge_index batch"),
    Whole("FeaStNet", SOURCE, MeshFeaSt, "x=pos edge_index"),
    Whole("MoNet", SOURCE, MoNet, "x edge_index pseudo=edge_attr batch"),
    Whole("MeshGraphNet", SOURCE, MeshGraphNet, "x edge_index edge_attr"),
    Whole("SE(3) attention", SOURCE, EquivariantAttention, "x pos edge_index"),
]  # fmt: skip
