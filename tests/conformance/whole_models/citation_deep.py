"""Node classifiers of PyG's examples: deep ones, with skips, with labels as features."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import (
    DNAConv,
    GATConv,
    GCN2Conv,
    GraphConv,
    GraphUNet,
    TransformerConv,
)

from tests.conformance.whole_models.row import Whole

SOURCE = "PyG examples"
GRAPH = "x edge_index"


class GCNII(nn.Module):
    def __init__(self, shared_weights=True):
        super().__init__()
        self.lins = nn.ModuleList([nn.Linear(8, 16), nn.Linear(16, 4)])
        self.convs = nn.ModuleList(
            GCN2Conv(16, 0.1, 0.5, layer + 1, shared_weights, normalize=True) for layer in range(4)
        )

    def forward(self, x, edge_index):
        x = F.dropout(x, 0.6, training=self.training)
        x = x_0 = self.lins[0](x).relu()
        for conv in self.convs:
            x = F.dropout(x, 0.6, training=self.training)
            x = conv(x, x_0, edge_index).relu()
        x = F.dropout(x, 0.6, training=self.training)
        return self.lins[1](x).log_softmax(dim=-1)


class GCNIIForProteins(nn.Module):
    """The inductive variant: residual connections around every layer."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 4)
        self.convs = nn.ModuleList(GCN2Conv(16, 0.5, 1.0, layer + 1, shared_weights=False) for layer in range(3))

    def forward(self, x, edge_index):
        h = h_0 = F.relu(self.enter(x))
        for conv in self.convs:
            h = F.dropout(h, 0.2, self.training)
            h = F.relu(conv(h, h_0, edge_index) + h)
        return self.leave(h)


class DNA(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(8, 16), nn.Linear(16, 4)
        self.convs = nn.ModuleList(DNAConv(16, heads=2, groups=2, dropout=0.8) for _ in range(3))

    def forward(self, x, edge_index):
        x = F.relu(self.lin1(x))
        x = F.dropout(x, p=0.5, training=self.training)
        x_all = x.view(-1, 1, 16)
        for conv in self.convs:
            x = F.relu(conv(x_all, edge_index))
            x_all = torch.cat([x_all, x.view(-1, 1, 16)], dim=1)
        x = F.dropout(x_all[:, -1], p=0.5, training=self.training)
        return torch.log_softmax(self.lin2(x), dim=1)


class GATWithSkips(nn.Module):
    """ppi.py and ogbn_products_gat.py: a linear layer beside each attention layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.lin1 = GATConv(8, 8, heads=4), nn.Linear(8, 32)
        self.conv2, self.lin2 = GATConv(32, 8, heads=4), nn.Linear(32, 32)
        self.conv3, self.lin3 = GATConv(32, 4, heads=6, concat=False), nn.Linear(32, 4)

    def forward(self, x, edge_index):
        x = F.elu(self.conv1(x, edge_index) + self.lin1(x))
        x = F.elu(self.conv2(x, edge_index) + self.lin2(x))
        return self.conv3(x, edge_index) + self.lin3(x)


class GraphSAINT(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = GraphConv(8, 16), GraphConv(16, 16), GraphConv(16, 16)
        self.lin = nn.Linear(48, 4)

    def forward(self, x0, edge_index, edge_weight=None):
        x1 = F.dropout(F.relu(self.conv1(x0, edge_index, edge_weight)), 0.2, self.training)
        x2 = F.dropout(F.relu(self.conv2(x1, edge_index, edge_weight)), 0.2, self.training)
        x3 = F.dropout(F.relu(self.conv3(x2, edge_index, edge_weight)), 0.2, self.training)
        return self.lin(torch.cat([x1, x2, x3], dim=-1)).log_softmax(dim=-1)


class SIGN(nn.Module):
    def __init__(self):
        super().__init__()
        self.lins = nn.ModuleList(nn.Linear(8, 16) for _ in range(3))
        self.lin = nn.Linear(48, 4)

    def forward(self, xs):
        hs = [F.dropout(lin(x).relu(), 0.5, self.training) for x, lin in zip(xs, self.lins, strict=True)]
        return self.lin(torch.cat(hs, dim=-1)).log_softmax(dim=-1)


class UniMP(nn.Module):
    """Labels of some nodes are given as features of another kind, and attention layers have gated skips."""

    def __init__(self):
        super().__init__()
        self.label = nn.Embedding(3, 8)
        self.conv1, self.norm1 = TransformerConv(8, 8, heads=2, concat=True, beta=True, dropout=0.3), nn.LayerNorm(16)
        self.conv2 = TransformerConv(16, 4, heads=2, concat=False, beta=True, dropout=0.3)

    def forward(self, x, y, edge_index, label_mask):
        x = torch.where(label_mask.unsqueeze(-1), x + self.label(y), x)
        x = self.norm1(self.conv1(x, edge_index)).relu()
        return self.conv2(x, edge_index)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.unet = GraphUNet(8, 16, 4, depth=2, pool_ratios=[0.6, 0.5])

    def forward(self, x, edge_index):
        x = F.dropout(x, p=0.92, training=self.training)
        return F.log_softmax(self.unet(x, edge_index), dim=1)


MODELS = [
    Whole("GCNII", SOURCE, GCNII),
    Whole("GCNII two weights", SOURCE, lambda: GCNII(False)),
    Whole("GCNII for proteins", SOURCE, GCNIIForProteins),
    Whole("DNA", SOURCE, DNA),
    Whole("GAT with skips", SOURCE, GATWithSkips),
    Whole("GraphSAINT", SOURCE, GraphSAINT, "x0=x edge_index edge_weight"),
    Whole("SIGN", SOURCE, SIGN, "xs=hops"),
    Whole("UniMP", SOURCE, UniMP, f"{GRAPH} y=node_type label_mask=node_mask"),
    Whole("GraphUNet", SOURCE, UNet),
]
