"""Node classifiers of PyG's examples and its citation benchmark."""

from itertools import pairwise

import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import (
    APPNP,
    AGNNConv,
    ARMAConv,
    ChebConv,
    FiLMConv,
    GATConv,
    GATv2Conv,
    GCNConv,
    SAGEConv,
    SGConv,
    SSGConv,
    SuperGATConv,
    TAGConv,
)

from tests.conformance.whole_models.row import Whole

SOURCE = "PyG examples"
GRAPH = "x edge_index"


class GCN(nn.Module):
    def __init__(self, in_channels=8, hidden_channels=16, out_channels=4):
        super().__init__()
        self.conv1 = GCNConv(in_channels, hidden_channels)
        self.conv2 = GCNConv(hidden_channels, out_channels)

    def forward(self, x, edge_index, edge_weight=None):
        x = F.dropout(x, p=0.5, training=self.training)
        x = self.conv1(x, edge_index, edge_weight).relu()
        x = F.dropout(x, p=0.5, training=self.training)
        return self.conv2(x, edge_index, edge_weight)


class GAT(nn.Module):
    def __init__(self, layer=GATConv, heads=4):
        super().__init__()
        self.conv1 = layer(8, 8, heads, dropout=0.6)
        self.conv2 = layer(8 * heads, 4, heads=1, concat=False, dropout=0.6)

    def forward(self, x, edge_index):
        x = F.dropout(x, p=0.6, training=self.training)
        x = F.elu(self.conv1(x, edge_index))
        x = F.dropout(x, p=0.6, training=self.training)
        return self.conv2(x, edge_index)


class AGNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin1 = nn.Linear(8, 16)
        self.prop1 = AGNNConv(requires_grad=False)
        self.prop2 = AGNNConv(requires_grad=True)
        self.lin2 = nn.Linear(16, 4)

    def forward(self, x, edge_index):
        x = F.dropout(x, training=self.training)
        x = F.relu(self.lin1(x))
        x = self.prop1(x, edge_index)
        x = self.prop2(x, edge_index)
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.lin2(x), dim=1)


class PPNP(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(8, 16), nn.Linear(16, 4)
        self.prop1 = APPNP(K=4, alpha=0.1)

    def forward(self, x, edge_index):
        x = F.dropout(x, training=self.training)
        x = F.relu(self.lin1(x))
        x = F.dropout(x, training=self.training)
        x = self.prop1(self.lin2(x), edge_index)
        return F.log_softmax(x, dim=1)


class ARMA(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = ARMAConv(8, 16, num_stacks=2, num_layers=2, shared_weights=True, dropout=0.25)
        self.conv2 = ARMAConv(16, 4, num_stacks=2, num_layers=2, shared_weights=True, dropout=0.25, act=lambda x: x)

    def forward(self, x, edge_index):
        x = F.dropout(x, training=self.training)
        x = F.relu(self.conv1(x, edge_index))
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.conv2(x, edge_index), dim=1)


class TwoConvs(nn.Module):
    """Two layers of one kind: the citation benchmark's ChebNet and TAGCN."""

    def __init__(self, layer, **options):
        super().__init__()
        self.conv1, self.conv2 = layer(8, 16, **options), layer(16, 4, **options)

    def forward(self, x, edge_index):
        x = F.relu(self.conv1(x, edge_index))
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.conv2(x, edge_index), dim=1)


class SGC(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = SGConv(8, 4, K=2)

    def forward(self, x, edge_index):
        return F.log_softmax(self.conv1(x, edge_index), dim=1)


class S2GC(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.lin = SSGConv(8, 16, alpha=0.05, K=4), nn.Linear(16, 4)

    def forward(self, x, edge_index):
        return self.lin(F.dropout(F.relu(self.conv(x, edge_index)), 0.3, self.training))


class SuperGAT(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = SuperGATConv(8, 8, heads=4, dropout=0.6, attention_type="MX", is_undirected=True)
        self.conv2 = SuperGATConv(32, 4, heads=4, concat=False, dropout=0.6, is_undirected=True)

    def forward(self, x, edge_index):
        x = F.elu(self.conv1(x, edge_index))
        x = F.dropout(x, 0.6, self.training)
        return F.log_softmax(self.conv2(x, edge_index), dim=-1)


class SAGE(nn.Module):
    def __init__(self, num_layers=3):
        super().__init__()
        widths = [8] + [16] * (num_layers - 1) + [4]
        self.convs = nn.ModuleList(SAGEConv(a, b) for a, b in pairwise(widths))
        self.num_layers = num_layers

    def forward(self, x, edge_index, batch_size=None):
        for i, conv in enumerate(self.convs):
            x = conv(x, edge_index)
            if i < self.num_layers - 1:
                x = F.dropout(x.relu_(), p=0.5, training=self.training)
        return x


class FiLM(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([FiLMConv(8, 16), FiLMConv(16, 16), FiLMConv(16, 4, act=None)])
        self.norms = nn.ModuleList(nn.BatchNorm1d(16) for _ in range(2))

    def forward(self, x, edge_index):
        for conv, norm in zip(self.convs[:-1], self.norms, strict=True):
            x = F.dropout(norm(conv(x, edge_index)), p=0.1, training=self.training)
        return self.convs[-1](x, edge_index)


MODELS = [
    Whole("GCN", SOURCE, GCN, f"{GRAPH} edge_weight"),
    Whole("GAT", SOURCE, GAT),
    Whole("GATv2", SOURCE, lambda: GAT(GATv2Conv)),
    Whole("AGNN", SOURCE, AGNN, below=0.95, why="the L2 norm of AGNNConv reads all of its channels"),
    Whole("APPNP", SOURCE, PPNP),
    Whole("ARMA", SOURCE, ARMA),
    Whole("ChebNet", SOURCE, lambda: TwoConvs(ChebConv, K=3)),
    Whole("TAGCN", SOURCE, lambda: TwoConvs(TAGConv, K=2)),
    Whole("SGC", SOURCE, SGC, expect="nothing"),
    Whole("SSGC", SOURCE, S2GC),
    Whole("SuperGAT", SOURCE, SuperGAT),
    Whole("GraphSAGE", SOURCE, SAGE),
    Whole("FiLM", SOURCE, FiLM),
]
