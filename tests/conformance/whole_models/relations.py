"""Graphs of several types of edges, relbench's models, and models of metapaths."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import (
    HeteroConv,
    HeteroDictLinear,
    LayerNorm,
    PositionalEncoding,
    RGATConv,
    RGCNConv,
    SAGEConv,
    global_mean_pool,
)

from tests.conformance.whole_models.parts import initialised
from tests.conformance.whole_models.row import Whole

SOURCE = "hetero"
METADATA = (["a", "b"], [("a", "near", "a"), ("a", "to", "b"), ("b", "back", "a")])
HETERO, TYPED = "x_dict edge_index_dict", "n_id=index edge_index edge_type"


class RelationalSAGE(nn.Module):
    """relbench: encode rows, add encoded times, message passing with norms by type, a head for the seeds."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"a": self.resnet(8), "b": self.resnet(12)})
        self.time, self.time_lin = PositionalEncoding(16), nn.Linear(16, 16)
        self.convs = nn.ModuleList(
            HeteroConv({relation: SAGEConv((16, 16), 16, aggr="mean") for relation in METADATA[1]}, aggr="sum")
            for _ in range(2)
        )
        self.norms = nn.ModuleList(
            nn.ModuleDict({node_type: LayerNorm(16, mode="node") for node_type in METADATA[0]}) for _ in range(2)
        )
        self.head = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))

    @staticmethod
    def resnet(width):
        return nn.Sequential(nn.Linear(width, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16))

    def forward(self, x_dict, edge_index_dict, time, seeds):
        x_dict = {key: self.encoder[key](x) for key, x in x_dict.items()}
        x_dict["a"] = x_dict["a"] + self.time_lin(self.time(time))
        for conv, norms in zip(self.convs, self.norms, strict=True):
            x_dict = conv(x_dict, edge_index_dict)
            x_dict = {key: norms[key](x).relu() for key, x in x_dict.items()}
        return self.head(x_dict["a"][seeds])


class TypedLinear(nn.Module):
    """One dictionary of linear layers before and after a relation-wise mean."""

    def __init__(self):
        super().__init__()
        self.enter = HeteroDictLinear({"a": 8, "b": 12}, 16, types=METADATA[0])
        self.conv = HeteroConv({relation: SAGEConv(16, 16) for relation in METADATA[1]}, aggr="max")
        self.leave = HeteroDictLinear({"a": 16, "b": 16}, 3)

    def forward(self, x_dict, edge_index_dict):
        return self.leave(self.conv(self.enter(x_dict), edge_index_dict))


class RGCN(nn.Module):
    """rgcn.py: entities have a learned row each."""

    def __init__(self, layer=RGCNConv, **options):
        super().__init__()
        self.embedding = nn.Embedding(9, 16)
        self.conv1, self.conv2 = layer(16, 16, 3, **options), layer(16, 4, 3, **options)

    def forward(self, n_id, edge_index, edge_type):
        x = F.relu(self.conv1(self.embedding(n_id), edge_index, edge_type))
        return F.log_softmax(self.conv2(x, edge_index, edge_type), dim=1)


class RGAT(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.lin = RGATConv(8, 16, 3), RGATConv(16, 16, 3), nn.Linear(16, 4)

    def forward(self, x, edge_index, edge_type):
        x = self.conv1(x, edge_index, edge_type).relu()
        x = self.conv2(x, edge_index, edge_type).relu()
        return F.log_softmax(self.lin(x), dim=-1)


class MetapathAttention(nn.Module):
    """MAGNN: instances of a metapath are averaged, then attended to, per path and over paths."""

    def __init__(self):
        super().__init__()
        self.fc = nn.ModuleDict({"a": nn.Linear(8, 16), "b": nn.Linear(12, 16)})
        self.att, self.query = nn.Linear(16, 16), nn.Linear(16, 1, bias=False)
        self.out = nn.Linear(16, 3)

    def forward(self, x_dict, first, second):
        h = {key: self.fc[key](x) for key, x in x_dict.items()}
        ends = []
        for src, mid in (first, second):
            instance = (h["a"][src] + h["b"][mid]) / 2
            ends.append(torch.zeros_like(h["a"]).index_add(0, src, instance).relu())
        z = torch.stack(ends, dim=1)
        beta = torch.softmax(self.query(torch.tanh(self.att(z)).mean(0)), dim=0)
        return self.out((beta.unsqueeze(0) * z).sum(1))


class GraphOfTypes(nn.Module):
    """Heterogeneous graph classification: both types are averaged per graph."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(
            HeteroConv({relation: SAGEConv((-1, -1), 16) for relation in METADATA[1]}) for _ in range(2)
        )
        self.lin = nn.Linear(32, 2)

    def forward(self, x_dict, edge_index_dict, batch_dict):
        for conv in self.convs:
            x_dict = {key: F.leaky_relu(x) for key, x in conv(x_dict, edge_index_dict).items()}
        pooled = [global_mean_pool(x_dict[key], batch_dict[key]) for key in ("a", "b")]
        return self.lin(torch.cat(pooled, dim=-1))


def paths(g):
    return {"x_dict": g.x_dict, "first": tuple(g.bipartite), "second": tuple(g.bipartite[:, :-1])}


def batches(g):
    target = torch.arange(g.targets) * g.graphs // g.targets
    return {"x_dict": g.x_dict, "edge_index_dict": g.edge_index_dict, "batch_dict": {"a": g.batch, "b": target}}


MODELS = [
    Whole("relbench", SOURCE, RelationalSAGE, f"{HETERO} time seeds"),
    Whole("HeteroDictLinear", SOURCE, TypedLinear, HETERO),
    Whole("RGCN bases", SOURCE, lambda: RGCN(num_bases=4), TYPED),
    Whole("RGCN", SOURCE, RGCN, TYPED),
    Whole("RGAT", SOURCE, RGAT, "x edge_index edge_type"),
    Whole("MAGNN", SOURCE, MetapathAttention, paths),
    Whole("graphs of types", SOURCE, initialised(GraphOfTypes, batches), batches),
]
