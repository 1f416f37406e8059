"""Heterogeneous models: PyG's examples, metapath2vec's successors, relbench."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import (
    GATConv,
    GCNConv,
    HANConv,
    HeteroConv,
    HGTConv,
    Linear,
    SAGEConv,
    to_hetero,
)

from tests.conformance.whole_models.parts import initialised
from tests.conformance.whole_models.row import Whole

SOURCE = "hetero"
METADATA = (["a", "b"], [("a", "near", "a"), ("a", "to", "b"), ("b", "back", "a")])
RENAMED = "x=x_dict edge_index=edge_index_dict"
HETERO, TYPED = "x_dict edge_index_dict", "n_id=index edge_index edge_type"


class HeteroGNN(nn.Module):
    """hetero_conv_dblp.py: one layer of another kind for each relation."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList()
        for _ in range(2):
            self.convs.append(
                HeteroConv(
                    {
                        ("a", "near", "a"): GCNConv(-1, 16),
                        ("a", "to", "b"): SAGEConv((-1, -1), 16),
                        ("b", "back", "a"): GATConv((-1, -1), 16, add_self_loops=False),
                    },
                    aggr="sum",
                )
            )
        self.lin = Linear(16, 3)

    def forward(self, x_dict, edge_index_dict):
        for conv in self.convs:
            x_dict = conv(x_dict, edge_index_dict)
            x_dict = {key: x.relu() for key, x in x_dict.items()}
        return self.lin(x_dict["a"])


class HGT(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin_dict = nn.ModuleDict({node_type: Linear(-1, 16) for node_type in METADATA[0]})
        self.convs = nn.ModuleList(HGTConv(16, 16, METADATA, heads=2) for _ in range(2))
        self.lin = Linear(16, 3)

    def forward(self, x_dict, edge_index_dict):
        x_dict = {node_type: self.lin_dict[node_type](x).relu_() for node_type, x in x_dict.items()}
        for conv in self.convs:
            x_dict = conv(x_dict, edge_index_dict)
        return self.lin(x_dict["a"])


class HAN(nn.Module):
    def __init__(self):
        super().__init__()
        self.han_conv = HANConv({"a": 8, "b": 12}, 16, heads=4, dropout=0.6, metadata=METADATA)
        self.lin = nn.Linear(16, 3)

    def forward(self, x_dict, edge_index_dict):
        return self.lin(self.han_conv(x_dict, edge_index_dict)["a"])


class Homogeneous(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = SAGEConv((-1, -1), 16), SAGEConv((-1, -1), 16)
        self.dropout, self.lin = nn.Dropout(0.2), Linear(-1, 3)

    def forward(self, x, edge_index):
        x = self.dropout(self.conv1(x, edge_index).relu())
        return self.lin(self.conv2(x, edge_index).relu())


class GATHomogeneous(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.lin1 = GATConv((-1, -1), 16, add_self_loops=False), Linear(-1, 16)
        self.conv2, self.lin2 = GATConv((-1, -1), 3, add_self_loops=False), Linear(-1, 3)

    def forward(self, x, edge_index):
        x = self.conv1(x, edge_index) + self.lin1(x)
        return self.conv2(x.relu(), edge_index) + self.lin2(x)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = SAGEConv((-1, -1), 16), SAGEConv((-1, -1), 16)

    def forward(self, x, edge_index):
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)


class EdgeDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(32, 16), nn.Linear(16, 1)

    def forward(self, z_dict, edge_label_index):
        row, col = edge_label_index
        z = torch.cat([z_dict["a"][row], z_dict["b"][col]], dim=-1)
        return self.lin2(self.lin1(z).relu()).view(-1)


class Recommender(nn.Module):
    """hetero_link_pred.py: `to_hetero` around the encoder, a decoder on pairs of two types."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = to_hetero(Encoder(), METADATA, aggr="sum"), EdgeDecoder()

    def forward(self, x_dict, edge_index_dict, edge_label_index):
        return self.decoder(self.encoder(x_dict, edge_index_dict), edge_label_index)


class DotRecommender(nn.Module):
    """The link tutorial: embeddings of users by number, features of items, a dot product."""

    def __init__(self):
        super().__init__()
        self.item_lin, self.user_lin = nn.Linear(12, 16), nn.Linear(8, 16)
        self.user_emb = nn.Embedding(9, 16)
        self.gnn = to_hetero(Encoder(), METADATA)

    def forward(self, x_dict, n_id, edge_index_dict, edge_label_index):
        start = {"a": self.user_lin(x_dict["a"]) + self.user_emb(n_id), "b": self.item_lin(x_dict["b"])}
        z = self.gnn(start, edge_index_dict)
        return (z["a"][edge_label_index[0]] * z["b"][edge_label_index[1]]).sum(dim=-1)


class BipartiteSAGE(nn.Module):
    """bipartite_sage_unsup.py: items hear of items, users of items."""

    def __init__(self):
        super().__init__()
        self.item1, self.item2, self.user = SAGEConv(8, 16), SAGEConv(16, 16), SAGEConv((16, 8), 16)
        self.lin = nn.Linear(16, 8)

    def forward(self, x, x_user, edge_index, user_edge_index):
        x = F.relu(self.item1(x, edge_index))
        user = F.relu(self.user((x, x_user), user_edge_index))
        return self.lin(F.relu(self.item2(x, edge_index))), self.lin(user)


def labelled(g):
    return {"x_dict": g.x_dict, "edge_index_dict": g.edge_index_dict, "edge_label_index": torch.stack(
        [g.seeds, torch.randint(g.targets, (g.targets,), generator=g.draw)])[:, :-1]}  # fmt: skip


def numbered(g):
    return {"x_dict": g.x_dict, "n_id": g.index, **labelled(g)}


MODELS = [
    Whole("HeteroConv", SOURCE, initialised(HeteroGNN), HETERO),
    Whole("HGT", SOURCE, initialised(HGT), HETERO),
    Whole("HAN", SOURCE, HAN, HETERO),
    Whole("to_hetero SAGE", SOURCE, initialised(lambda: to_hetero(Homogeneous(), METADATA), RENAMED), RENAMED),
    Whole("to_hetero GAT", SOURCE, initialised(lambda: to_hetero(GATHomogeneous(), METADATA), RENAMED), RENAMED),
    Whole("recommender", SOURCE, initialised(Recommender, labelled), labelled),
    Whole("dot recommender", SOURCE, initialised(DotRecommender, numbered), numbered),
    Whole("bipartite SAGE", SOURCE, BipartiteSAGE, "x x_user=x_dst edge_index user_edge_index=bipartite"),
]
