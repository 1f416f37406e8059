"""Models whose forward takes one `Data` object, or the graph as a sparse matrix."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.nn import (
    GATConv,
    GCNConv,
    GINEConv,
    GraphConv,
    HeteroConv,
    SAGEConv,
    TopKPooling,
    global_add_pool,
    global_mean_pool,
)

from tests.conformance.whole_models.row import ATOMS, BONDS, Whole

SOURCE, SPARSE = "forward(data)", "sparse adjacency"


class Net(nn.Module):
    """The introduction of PyG's documentation."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = GCNConv(8, 16), GCNConv(16, 4)

    def forward(self, data):
        x, edge_index = data.x, data.edge_index
        x = F.relu(self.conv1(x, edge_index))
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.conv2(x, edge_index), dim=1)


class GraphNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.lin = GraphConv(8, 16), GraphConv(16, 16), nn.Linear(16, 3)

    def forward(self, data):
        x = self.conv2(self.conv1(data.x, data.edge_index).relu(), data.edge_index).relu()
        return self.lin(F.dropout(global_mean_pool(x, data.batch), 0.5, self.training))


class Molecule(nn.Module):
    """Integers of atoms and bonds, and the attributes taken together in one line."""

    def __init__(self):
        super().__init__()
        self.atom, self.bond = nn.Embedding(ATOMS, 16), nn.Embedding(BONDS, 16)
        self.convs = nn.ModuleList(
            GINEConv(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))) for _ in range(2)
        )
        self.out = nn.Linear(16, 1)

    def forward(self, batched_data):
        x, edge_index, edge_attr, batch = (
            batched_data.x,
            batched_data.edge_index,
            batched_data.edge_attr,
            batched_data.batch,
        )
        x, edge_attr = self.atom(x), self.bond(edge_attr)
        for conv in self.convs:
            x = conv(x, edge_index, edge_attr).relu()
        return self.out(global_add_pool(x, batch)).view(-1)


class Weighted(nn.Module):
    """`edge_attr` is the weight where there is one."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = GCNConv(8, 16), GCNConv(16, 4)

    def forward(self, data):
        x, edge_index, edge_weight = data.x, data.edge_index, data.edge_attr
        x = F.elu(self.conv1(x, edge_index, edge_weight))
        return self.conv2(x, edge_index, edge_weight)


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.pool, self.conv2 = GraphConv(8, 16), TopKPooling(16, 0.8), GraphConv(16, 16)
        self.lin = nn.Linear(16, 3)

    def forward(self, data):
        x, edge_index, batch = data.x, data.edge_index, data.batch
        x = F.relu(self.conv1(x, edge_index))
        x, edge_index, _, batch, _, _ = self.pool(x, edge_index, None, batch)
        return self.lin(global_mean_pool(F.relu(self.conv2(x, edge_index)), batch))


class Positions(nn.Module):
    """Distances become weights; the number of nodes is asked of the object."""

    def __init__(self):
        super().__init__()
        self.conv1, self.lin = GATConv(8, 16, edge_dim=1), nn.Linear(16, 2)

    def forward(self, data):
        row, col = data.edge_index
        d = (data.pos[row] - data.pos[col]).norm(dim=-1, keepdim=True)
        h = self.conv1(data.x, data.edge_index, d).relu()
        summed = torch.zeros(data.num_nodes, h.size(1), dtype=h.dtype).index_add(0, col, h[row])
        return self.lin(summed)


class HeteroNet(nn.Module):
    def __init__(self):
        super().__init__()
        relations = {("a", "to", "b"): ((8, 12), 16), ("b", "back", "a"): ((12, 8), 16)}
        self.conv1 = HeteroConv({key: SAGEConv(*widths) for key, widths in relations.items()})
        self.conv2 = HeteroConv({key: SAGEConv(16, 16) for key in relations})
        self.lin = nn.Linear(16, 4)

    def forward(self, data):
        x_dict = {key: x.relu() for key, x in self.conv1(data.x_dict, data.edge_index_dict).items()}
        return self.lin(self.conv2(x_dict, data.edge_index_dict)["a"].relu())


class SparseGCN(nn.Module):
    """OGB's node baselines: the graph is a sparse matrix."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([GCNConv(8, 16, normalize=False), GCNConv(16, 16, normalize=False)])
        self.bn, self.out = nn.BatchNorm1d(16), GCNConv(16, 4, normalize=False)

    def forward(self, x, adj_t):
        for conv in self.convs:
            x = F.dropout(F.relu(self.bn(conv(x, adj_t))), 0.5, self.training)
        return self.out(x, adj_t).log_softmax(dim=-1)


class SparseSAGE(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = SAGEConv(8, 16), SAGEConv(16, 4)

    def forward(self, x, adj_t):
        return self.conv2(F.dropout(self.conv1(x, adj_t).relu(), 0.5, self.training), adj_t)


class Multiplied(nn.Module):
    """Kipf's own: the normalised adjacency, sparse, multiplies by hand."""

    def __init__(self):
        super().__init__()
        self.w1, self.w2 = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x, adj):
        x = F.relu(torch.spmm(adj, self.w1(x)))
        return F.log_softmax(torch.spmm(adj, self.w2(F.dropout(x, 0.5, self.training))), dim=1)


def given(*names, **renamed):
    """The named attributes of a graph in one `Data` object."""
    wanted = {**dict(zip(names, names, strict=True)), **renamed}
    return lambda g: (Data(**{key: getattr(g, name) for key, name in wanted.items()}),)


def batched(g):
    parts = [Data(x=g.x, edge_index=g.edge_index), Data(x=g.x_dst, edge_index=g.edge_index[:, :3] % g.targets)]
    return (Batch.from_data_list(parts),)


def typed(g):
    data = HeteroData()
    for key, x in g.x_dict.items():
        data[key].x = x
    for key in (("a", "to", "b"), ("b", "back", "a")):
        data[key].edge_index = g.edge_index_dict[key]
    return (data,)


def sparse(layout):
    def call(g):
        adj = torch.sparse_coo_tensor(g.edge_index, g.edge_weight, g.square).coalesce()
        return g.x, adj if layout == "coo" else adj.to_sparse_csr()

    return call


MODELS = [
    Whole("Net", SOURCE, Net, given("x", "edge_index")),
    Whole("GraphNet", SOURCE, GraphNet, given("x", "edge_index", "batch")),
    Whole("GraphNet on a Batch", SOURCE, GraphNet, batched),
    Whole("Molecule", SOURCE, Molecule, given("edge_index", "batch", x="atom", edge_attr="bond")),
    Whole("Weighted", SOURCE, Weighted, given("x", "edge_index", edge_attr="edge_weight")),
    Whole("Weighted without weights", SOURCE, Weighted, given("x", "edge_index")),
    Whole("Pooled", SOURCE, Pooled, given("x", "edge_index", "batch")),
    Whole("Positions", SOURCE, Positions, given("x", "edge_index", "pos")),
    Whole("HeteroNet", SOURCE, HeteroNet, typed),
    Whole("GCN on adj_t", SPARSE, SparseGCN, sparse("csr")),
    Whole("SAGE on adj_t", SPARSE, SparseSAGE, sparse("csr")),
    Whole("Kipf's GCN", SPARSE, Multiplied, sparse("coo")),
]
