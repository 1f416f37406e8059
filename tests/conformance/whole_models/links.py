"""Link prediction, embeddings without labels, knowledge graphs, recommendation."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import (
    ARGVA,
    GAE,
    MLP,
    VGAE,
    GCNConv,
    SAGEConv,
    SignedConv,
    SortAggregation,
)

from tests.conformance.whole_models.row import Whole

SOURCE = "links"
PAIRS = "x edge_index edge_label_index=pairs"


class LinkGCN(nn.Module):
    """link_pred.py: encode, then score the pairs asked for."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = GCNConv(8, 32), GCNConv(32, 16)

    def encode(self, x, edge_index):
        x = self.conv1(x, edge_index).relu()
        return self.conv2(x, edge_index)

    def decode(self, z, edge_label_index):
        return (z[edge_label_index[0]] * z[edge_label_index[1]]).sum(dim=-1)

    def forward(self, x, edge_index, edge_label_index):
        return self.decode(self.encode(x, edge_index), edge_label_index)


class LinkPredictor(nn.Module):
    def __init__(self, width=16, layers=3):
        super().__init__()
        self.lins = nn.ModuleList([nn.Linear(width, width) for _ in range(layers - 1)] + [nn.Linear(width, 1)])

    def forward(self, x_i, x_j):
        x = x_i * x_j
        for lin in self.lins[:-1]:
            x = F.dropout(F.relu(lin(x)), p=0.3, training=self.training)
        return torch.sigmoid(self.lins[-1](x))


class CollabSAGE(nn.Module):
    """OGB's link baselines: a SAGE or GCN stack and an MLP on the product of both ends."""

    def __init__(self, conv=SAGEConv):
        super().__init__()
        self.convs, self.predictor = nn.ModuleList([conv(8, 16), conv(16, 16), conv(16, 16)]), LinkPredictor()

    def forward(self, x, edge_index, pos, neg):
        for conv in self.convs[:-1]:
            x = F.dropout(F.relu(conv(x, edge_index)), 0.3, self.training)
        h = self.convs[-1](x, edge_index)
        return self.predictor(h[pos[0]], h[pos[1]]), self.predictor(h[neg[0]], h[neg[1]])


class VariationalEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv_mu, self.conv_logstd = GCNConv(8, 32), GCNConv(32, 16), GCNConv(32, 16)

    def forward(self, x, edge_index):
        x = self.conv1(x, edge_index).relu()
        return self.conv_mu(x, edge_index), self.conv_logstd(x, edge_index)


class Reconstruct(nn.Module):
    """An autoencoder as it is deployed: probabilities of the pairs asked for."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, edge_index, pos_edge_index):
        z = self.model.encode(x, edge_index)
        return self.model.decoder(z, pos_edge_index, sigmoid=True), self.model.decoder.forward_all(z)


class GCNEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = GCNConv(8, 32), GCNConv(32, 16)

    def forward(self, x, edge_index):
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)


class SEAL(nn.Module):
    """seal_link_pred.py: subgraphs around pairs, sorted, and convolved as a sequence."""

    def __init__(self, k=5):
        super().__init__()
        self.convs = nn.ModuleList([GCNConv(8, 16), GCNConv(16, 16), GCNConv(16, 1)])
        self.pool = SortAggregation(k)
        self.conv1, self.maxpool1 = nn.Conv1d(1, 8, 33, 33), nn.MaxPool1d(2, 2)
        self.conv2 = nn.Conv1d(8, 12, 2, 1)
        self.mlp = MLP([12, 16, 1], dropout=0.5, norm=None)

    def forward(self, x, edge_index, batch):
        xs = [x]
        for conv in self.convs:
            xs += [conv(xs[-1], edge_index).tanh()]
        x = self.pool(torch.cat(xs[1:], dim=-1), batch).unsqueeze(1)
        x = self.maxpool1(self.conv1(x).relu())
        x = self.conv2(x).relu()
        return self.mlp(x.view(x.size(0), -1))


class SignedGCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = SignedConv(8, 8, first_aggr=True), SignedConv(8, 8, first_aggr=False)
        self.lin = nn.Linear(32, 3)

    def forward(self, x, pos_edge_index, neg_edge_index, edge_label_index):
        z = F.relu(self.conv1(x, pos_edge_index, neg_edge_index))
        z = F.relu(self.conv2(z, pos_edge_index, neg_edge_index))
        value = torch.cat([z[edge_label_index[0]], z[edge_label_index[1]]], dim=1)
        return torch.log_softmax(self.lin(value), dim=1)


class Pairs(nn.Module):
    """BUDDY and other subgraph models: structural counts of a pair beside its hashed features."""

    def __init__(self):
        super().__init__()
        self.enc, self.struct = nn.Linear(8, 16), nn.Linear(3, 16)
        self.bn = nn.BatchNorm1d(16)
        self.lin = nn.Linear(32, 1)

    def forward(self, x, edge_index, links, counts):
        x = F.relu(self.bn(self.enc(x)))
        counts = F.dropout(F.relu(self.struct(counts)), 0.2, self.training)
        pair = x[links[:, 0]] * x[links[:, 1]]
        return self.lin(torch.cat([counts, pair], 1)).squeeze(-1)


def links(g):
    return {"x": g.x, "edge_index": g.edge_index, "links": g.pairs.t(), "counts": g.features(g.targets, 3)}


MODELS = [
    Whole("link_pred", SOURCE, LinkGCN, PAIRS),
    Whole("OGB collab SAGE", SOURCE, CollabSAGE, "x edge_index pos=pairs neg=more_pairs"),
    Whole("OGB collab GCN", SOURCE, lambda: CollabSAGE(GCNConv), "x edge_index pos=pairs neg=more_pairs"),
    Whole("GAE", SOURCE, lambda: Reconstruct(GAE(GCNEncoder())), "x edge_index pos_edge_index=pairs"),
    Whole("VGAE", SOURCE, lambda: Reconstruct(VGAE(VariationalEncoder())), "x edge_index pos_edge_index=pairs"),
    Whole(
        "ARGVA",
        SOURCE,
        lambda: Reconstruct(ARGVA(VariationalEncoder(), nn.Linear(16, 1))),
        "x edge_index pos_edge_index=pairs",
    ),
    Whole("SEAL", SOURCE, SEAL, "x edge_index batch"),
    Whole(
        "SignedGCN", SOURCE, SignedGCN, "x pos_edge_index=edge_index neg_edge_index=edge_index edge_label_index=pairs"
    ),
    Whole("BUDDY", SOURCE, Pairs, links),
]
