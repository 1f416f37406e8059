"""Classifiers of whole graphs: PyG's examples and its kernel benchmark."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import (
    ASAPooling,
    BatchNorm,
    DenseGCNConv,
    DenseSAGEConv,
    GCNConv,
    GINConv,
    GraphConv,
    JumpingKnowledge,
    SAGEConv,
    SAGPooling,
    TopKPooling,
    dense_diff_pool,
    dense_mincut_pool,
    global_add_pool,
    global_max_pool,
    global_mean_pool,
)
from torch_geometric.nn.aggr import AttentionalAggregation, GraphMultisetTransformer, Set2Set, SortAggregation
from torch_geometric.nn.dense import DMoNPooling
from torch_geometric.nn.models import GIN, MLP
from torch_geometric.utils import to_dense_adj, to_dense_batch

from tests.conformance.whole_models.row import Whole

SOURCE = "PyG graph examples"


class MutagGIN(nn.Module):
    def __init__(self):
        super().__init__()
        self.gnn = GIN(8, 16, 3, dropout=0.5, jk="cat")
        self.classifier = MLP([16, 16, 3], norm="batch_norm", dropout=0.5)

    def forward(self, x, edge_index, batch, batch_size):
        x = self.gnn(x, edge_index)
        x = global_add_pool(x, batch, batch_size)
        return self.classifier(x)


def gin_layer(inside):
    return GINConv(
        nn.Sequential(nn.Linear(inside, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.BatchNorm1d(16)),
        train_eps=True,
    )


class GINWithJK(nn.Module):
    def __init__(self, mode="cat"):
        super().__init__()
        self.conv1 = gin_layer(8)
        self.convs = nn.ModuleList(gin_layer(16) for _ in range(2))
        self.jump = JumpingKnowledge(mode)
        self.lin1 = nn.Linear(48 if mode == "cat" else 16, 16)
        self.lin2 = nn.Linear(16, 3)

    def forward(self, x, edge_index, batch):
        x = self.conv1(x, edge_index)
        xs = [x]
        for conv in self.convs:
            x = conv(x, edge_index)
            xs += [x]
        x = global_mean_pool(self.jump(xs), batch)
        x = F.relu(self.lin1(x))
        x = F.dropout(x, p=0.5, training=self.training)
        return F.log_softmax(self.lin2(x), dim=-1)


class Readout(nn.Module):
    """The benchmark's SAGE networks with another readout each; ``width`` is what it returns for 16 channels."""

    def __init__(self, pool, width=16, layer=SAGEConv):
        super().__init__()
        self.conv1 = layer(8, 16)
        self.convs = nn.ModuleList(layer(16, 16) for _ in range(2))
        self.pool = pool
        self.lin1, self.lin2 = nn.Linear(width, 16), nn.Linear(16, 3)

    def forward(self, x, edge_index, batch):
        x = F.relu(self.conv1(x, edge_index))
        for conv in self.convs:
            x = F.relu(conv(x, edge_index))
        x = F.relu(self.lin1(self.pool(x, batch)))
        x = F.dropout(x, p=0.5, training=self.training)
        return F.log_softmax(self.lin2(x), dim=-1)


class SortPool(nn.Module):
    def __init__(self, k=4):
        super().__init__()
        self.k = k
        self.conv1, self.conv2 = SAGEConv(8, 16), SAGEConv(16, 16)
        self.pool = SortAggregation(k)
        self.conv1d, self.lin1, self.lin2 = nn.Conv1d(16, 12, 3), nn.Linear(12 * (k - 2), 16), nn.Linear(16, 3)

    def forward(self, x, edge_index, batch):
        x = F.relu(self.conv1(x, edge_index))
        x = F.relu(self.conv2(x, edge_index))
        x = self.pool(x, batch)
        x = x.view(len(x), self.k, -1).permute(0, 2, 1)
        x = F.relu(self.conv1d(x)).view(len(x), -1)
        x = F.dropout(F.relu(self.lin1(x)), p=0.5, training=self.training)
        return F.log_softmax(self.lin2(x), dim=-1)


class TopK(nn.Module):
    """proteins_topk_pool.py: three rounds of convolution, pooling and readout, whose readouts are added."""

    def __init__(self, pool=TopKPooling):
        super().__init__()
        self.conv1, self.pool1 = GraphConv(8, 16), pool(16, ratio=0.8)
        self.conv2, self.pool2 = GraphConv(16, 16), pool(16, ratio=0.8)
        self.lin1, self.lin2, self.lin3 = nn.Linear(32, 16), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x, edge_index, batch):
        x = F.relu(self.conv1(x, edge_index))
        x, edge_index, _, batch, *_ = self.pool1(x, edge_index, None, batch)
        x1 = torch.cat([global_max_pool(x, batch), global_mean_pool(x, batch)], dim=1)
        x = F.relu(self.conv2(x, edge_index))
        x, edge_index, _, batch, *_ = self.pool2(x, edge_index, None, batch)
        x2 = torch.cat([global_max_pool(x, batch), global_mean_pool(x, batch)], dim=1)
        x = F.relu(self.lin1(x1 + x2))
        x = F.relu(self.lin2(F.dropout(x, p=0.5, training=self.training)))
        return F.log_softmax(self.lin3(x), dim=-1)


class SAGTriangles(nn.Module):
    """triangles_sag_pool.py: counts a motif, with attention over nodes that it returns too."""

    def __init__(self):
        super().__init__()
        self.conv1 = GINConv(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16)))
        self.pool1 = SAGPooling(16, min_score=0.05, GNN=GCNConv)
        self.conv2 = GINConv(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)))
        self.lin = nn.Linear(16, 1)

    def forward(self, x, edge_index, batch):
        out = F.relu(self.conv1(x, edge_index))
        out, edge_index, _, batch, _, score = self.pool1(out, edge_index, None, batch)
        out = F.relu(self.conv2(out, edge_index))
        out = global_add_pool(out, batch)
        return self.lin(out).view(-1), score


class ASAP(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.pool = GraphConv(8, 16, aggr="mean"), ASAPooling(16, 0.8, dropout=0.1)
        self.conv2, self.jump = GraphConv(16, 16, aggr="mean"), JumpingKnowledge("cat")
        self.lin1, self.lin2 = nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, x, edge_index, batch):
        x = F.relu(self.conv1(x, edge_index))
        xs = [global_mean_pool(x, batch)]
        x, edge_index, weight, batch, _ = self.pool(x, edge_index, None, batch)
        x = F.relu(self.conv2(x, edge_index, weight))
        xs += [global_mean_pool(x, batch)]
        x = F.relu(self.lin1(self.jump(xs)))
        return F.log_softmax(self.lin2(F.dropout(x, 0.5, self.training)), dim=-1)


class DenseBlock(nn.Module):
    def __init__(self, inside, outside):
        super().__init__()
        self.conv1, self.bn1 = DenseSAGEConv(inside, 16), nn.BatchNorm1d(16)
        self.conv2, self.bn2 = DenseSAGEConv(16, outside), nn.BatchNorm1d(outside)
        self.lin = nn.Linear(16 + outside, outside)

    def bn(self, norm, x):
        batch_size, num_nodes, num_channels = x.size()
        return norm(x.reshape(-1, num_channels)).view(batch_size, num_nodes, num_channels)

    def forward(self, x, adj, mask=None):
        x1 = self.bn(self.bn1, self.conv1(x, adj, mask).relu())
        x2 = self.bn(self.bn2, self.conv2(x1, adj, mask).relu())
        return self.lin(torch.cat([x1, x2], dim=-1))


class DiffPool(nn.Module):
    def __init__(self):
        super().__init__()
        self.gnn1_pool, self.gnn1_embed = DenseBlock(8, 4), DenseBlock(8, 16)
        self.gnn2_embed = DenseSAGEConv(16, 16)
        self.lin1, self.lin2 = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x, adj, mask=None):
        s = self.gnn1_pool(x, adj, mask)
        x = self.gnn1_embed(x, adj, mask)
        x, adj, l1, e1 = dense_diff_pool(x, adj, s, mask)
        x = self.gnn2_embed(x, adj).relu().mean(dim=1)
        x = F.relu(self.lin1(x))
        return F.log_softmax(self.lin2(x), dim=-1), l1, e1


class MinCut(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.pool1 = GCNConv(8, 16), nn.Linear(16, 4)
        self.conv2, self.lin1, self.lin2 = DenseGCNConv(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x, edge_index, batch):
        x = F.relu(self.conv1(x, edge_index))
        x, mask = to_dense_batch(x, batch)
        adj = to_dense_adj(edge_index, batch)
        x, adj, mc, o = dense_mincut_pool(x, adj, self.pool1(x), mask)
        x = self.conv2(x, adj).relu().mean(dim=1)
        return F.log_softmax(self.lin2(F.relu(self.lin1(x))), dim=-1), mc + o


class DMoN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.pool1 = DenseGCNConv(8, 16), DMoNPooling([16, 16], 4)
        self.conv2, self.lin = DenseGCNConv(16, 16), nn.Linear(16, 3)

    def forward(self, x, adj, mask):
        x = F.relu(self.conv1(x, adj, mask))
        _, x, adj, sp, o, c = self.pool1(x, adj, mask)
        return F.log_softmax(self.lin(F.relu(self.conv2(x, adj)).mean(dim=1)), dim=-1), sp + o + c


class SetTransformerPool(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin1, self.convs = nn.Linear(8, 16), nn.ModuleList(GCNConv(16, 16) for _ in range(2))
        self.pool = GraphMultisetTransformer(32, k=3, heads=2)
        self.lin2, self.lin3 = nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, x0, edge_index, batch):
        x = self.lin1(x0).relu()
        xs = []
        for conv in self.convs:
            x = conv(x, edge_index).relu()
            xs.append(x)
        x = self.pool(torch.cat(xs, dim=-1), batch)
        x = F.dropout(self.lin2(x).relu(), p=0.5, training=self.training)
        return self.lin3(x)


class GlobalSum(nn.Module):
    """colab notebook of graph classification: three convolutions, a mean, dropout and one linear layer."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([GraphConv(8, 16), GraphConv(16, 16), GraphConv(16, 16)])
        self.norms = nn.ModuleList(BatchNorm(16) for _ in range(3))
        self.lin = nn.Linear(16, 3)

    def forward(self, x, edge_index, batch):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x, edge_index)).relu()
        x = global_mean_pool(x, batch)
        return self.lin(F.dropout(x, p=0.5, training=self.training))


def attention_pool():
    return AttentionalAggregation(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1)))


BATCHED = "x edge_index batch"
MODELS = [
    Whole("GIN with cat", SOURCE, MutagGIN, f"{BATCHED} batch_size"),
    Whole("GIN0WithJK", SOURCE, GINWithJK, BATCHED),
    Whole("GIN max", SOURCE, lambda: GINWithJK("max"), BATCHED),
    Whole("SAGE", SOURCE, lambda: Readout(global_mean_pool), BATCHED),
    Whole("GCN", SOURCE, lambda: Readout(global_add_pool, layer=GCNConv), BATCHED),
    Whole("GlobalAttentionNet", SOURCE, lambda: Readout(attention_pool()), BATCHED),
    Whole("Set2SetNet", SOURCE, lambda: Readout(Set2Set(16, 3), 32), BATCHED),
    Whole("SortPool", SOURCE, SortPool, BATCHED),
    Whole("TopK", SOURCE, TopK, BATCHED),
    Whole("SAGPool", SOURCE, lambda: TopK(SAGPooling), BATCHED),
    Whole("SAG triangles", SOURCE, SAGTriangles, BATCHED),
    Whole("ASAP", SOURCE, ASAP, BATCHED, dtype=torch.float32),
    Whole("DiffPool", SOURCE, DiffPool, "x=dense_x adj=dense_adj mask=dense_mask"),
    Whole("MinCut", SOURCE, MinCut, BATCHED, dtype=torch.float32),
    Whole("DMoN", SOURCE, DMoN, "x=dense_x adj=dense_adj mask=dense_mask"),
    Whole("GMT", SOURCE, SetTransformerPool, "x0=x edge_index batch"),
    Whole("notebook", SOURCE, GlobalSum, BATCHED),
]
