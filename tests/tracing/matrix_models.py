"""Models whose graph is a sparse matrix, and graphs for them."""

import torch
from torch import nn
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.nn import GATConv, GCNConv, GraphConv, HeteroConv, SAGEConv, global_mean_pool
from torch_geometric.transforms import ToSparseTensor

RELATIONS = (("a", "to", "b"), ("b", "back", "a"), ("a", "near", "a"))


def draw(seed):
    return torch.Generator().manual_seed(seed)


def edges(sources, targets, count, generator):
    """Edges ``[2, E]``, none twice."""
    key = torch.randperm(sources * targets, generator=generator)[:count]
    return torch.stack([key % sources, key // sources])


def bipartite(sources, targets, count, seed):
    """Features ``[N, 8]`` and ``[M, 8]``, and the matrix ``[M, N]``."""
    g = draw(seed)
    index = edges(sources, targets, count, g).flip(0)
    weights = torch.rand(count, generator=g, dtype=torch.float64) + 0.2
    adj = torch.sparse_coo_tensor(index, weights, (targets, sources)).coalesce()
    x, x_target = (torch.randn(n, 8, generator=g, dtype=torch.float64) for n in (sources, targets))
    return x, x_target, adj


def square(nodes, count, seed, layout="csr"):
    """Features and a matrix with weights, in one of torch's layouts."""
    x, _, adj = bipartite(nodes, nodes, count, seed)
    return x, {"csr": adj.to_sparse_csr, "csc": adj.to_sparse_csc, "coo": lambda: adj}[layout]()


def data(nodes, count, seed, attr=None, remove=True):
    """A ``Data`` object after PyG's own transform."""
    g = draw(seed)
    made = Data(x=torch.randn(nodes, 8, generator=g, dtype=torch.float64), edge_index=edges(nodes, nodes, count, g))
    weights = torch.rand(count, generator=g, dtype=torch.float64)
    made.edge_attr = weights if attr else torch.ones(count, dtype=torch.float64)
    return ToSparseTensor(attr="edge_attr", remove_edge_index=remove)(made)


def typed(first, second, count, seed):
    """A ``HeteroData`` object after PyG's own transform."""
    g, made = draw(seed), HeteroData()
    sizes = {"a": first, "b": second}
    for name, size in sizes.items():
        made[name].x = torch.randn(size, 8, generator=g, dtype=torch.float64)
    for number, key in enumerate(RELATIONS):
        made[key].edge_index = edges(sizes[key[0]], sizes[key[2]], count + 3 * number, g)
        made[key].weight = torch.rand(count + 3 * number, generator=g, dtype=torch.float64)
    return ToSparseTensor(attr="weight")(made)


def pair_of_graphs(nodes, count, seed):
    return (Batch.from_data_list([data(nodes, count, seed), data(nodes + 3, count + 4, seed + 5)]),)


def sampled(nodes, count, seed):
    """Features, and the matrices of two layers of a sampled graph."""
    middle, last = nodes * 2 // 3, nodes // 2
    x, _, first = bipartite(nodes, middle, count, seed)
    return x, [first.to_sparse_csr(), bipartite(middle, last, count - 5, seed + 9)[2].to_sparse_csr()]


class Net(nn.Module):
    def __init__(self, conv=GCNConv):
        super().__init__()
        self.conv1, self.conv2, self.lin = conv(8, 16), conv(16, 16), nn.Linear(16, 4)

    def forward(self, x, adj_t):
        return self.lin(self.conv2(self.conv1(x, adj_t).relu(), adj_t).relu())


class OfData(Net):
    def forward(self, data):
        return super().forward(data.x, data.adj_t)


class OfGraphs(Net):
    def forward(self, data):
        h = self.conv2(self.conv1(data.x, data.adj_t).relu(), data.adj_t).relu()
        return self.lin(global_mean_pool(h, data.batch))


class NamedAsEdges(Net):
    """PyG's models call a matrix ``edge_index``."""

    def forward(self, x, edge_index, edge_weight=None):
        return self.lin(self.conv2(self.conv1(x, edge_index, edge_weight).relu(), edge_index).relu())


class Links(Net):
    def forward(self, x, adj_t, pairs):
        z = super().forward(x, adj_t)
        return (z[pairs[0]] * z[pairs[1]]).sum(dim=-1)


class TwoMatrices(Net):
    def forward(self, x, near, far):
        return self.lin(self.conv2(self.conv1(x, near).relu(), far).relu())


class Sampled(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([SAGEConv(8, 16), SAGEConv(16, 4)])

    def forward(self, x, adjs):
        for conv, adj in zip(self.convs, adjs, strict=True):
            x = conv((x, x[: adj.size(0)]), adj).relu()
        return x


class ReturnsAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.lin = GATConv(8, 16), nn.Linear(16, 4)

    def forward(self, x, adj_t):
        h, (adj, alpha) = self.conv(x, adj_t, return_attention_weights=True)
        return self.lin(h.relu()), adj, alpha


class Bipartite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.lin = SAGEConv((8, 8), 16), GraphConv((8, 16), 16), nn.Linear(16, 4)

    def forward(self, x, x_target, adj_t):
        h = self.conv1((x, x_target), adj_t).relu()
        return self.lin(self.conv2((x, h), adj_t).relu())


class NoTargets(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.lin = SAGEConv((8, 8), 16), nn.Linear(16, 4)

    def forward(self, x, adj_t):
        return self.lin(self.conv((x, None), adj_t).relu())


class Typed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = HeteroConv({key: SAGEConv((8, 8), 16) for key in RELATIONS})
        self.conv2 = HeteroConv({key: SAGEConv((16, 16), 16) for key in RELATIONS})
        self.lin = nn.Linear(16, 4)

    def forward(self, x_dict, adj_t_dict):
        h = {key: x.relu() for key, x in self.conv1(x_dict, adj_t_dict).items()}
        return self.lin(self.conv2(h, adj_t_dict)["a"].relu())


class TypedData(Typed):
    def forward(self, data):
        return super().forward(data.x_dict, data.adj_t_dict)


class Between(nn.Module):
    """User code on the matrix between two linear layers."""

    def __init__(self, code):
        super().__init__()
        self.before, self.after, self.code = nn.Linear(8, 16), nn.Linear(16, 4), code
        self.conv, self.attention = GCNConv(16, 16), GATConv(16, 16)

    def forward(self, x, adj):
        return self.after(self.code(self, self.before(x).relu(), adj))
