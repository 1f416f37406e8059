"""Layers as users write them: MessagePassing with a message, an aggregation, an update of their own."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import add_self_loops, degree, scatter, softmax, spmm


class TutorialGCN(MessagePassing):
    """The tutorial's GCN: degrees in forward, norm in the message."""

    def __init__(self, **options):
        super().__init__(aggr="add", **options)
        self.lin = nn.Linear(8, 6, bias=False)
        self.bias = nn.Parameter(torch.zeros(6))

    def forward(self, x, edge_index):
        edge_index, _ = add_self_loops(edge_index, num_nodes=x.size(0))
        x = self.lin(x)
        row, col = edge_index
        deg = degree(col, x.size(0), dtype=x.dtype)
        deg_inv_sqrt = deg.pow(-0.5)
        deg_inv_sqrt[deg_inv_sqrt == float("inf")] = 0
        norm = deg_inv_sqrt[row] * deg_inv_sqrt[col]
        return self.propagate(edge_index, x=x, norm=norm) + self.bias

    def message(self, x_j, norm):
        return norm.view(-1, 1) * x_j


class TutorialEdgeConv(MessagePassing):
    """The tutorial's EdgeConv: an MLP of both ends of an edge."""

    def __init__(self, aggr="max", **options):
        super().__init__(aggr=aggr, **options)
        self.mlp = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 6))

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=x)

    def message(self, x_i, x_j):
        return self.mlp(torch.cat([x_i, x_j - x_i], dim=1))


class EdgeFeatures(MessagePassing):
    """Both ends and the edge's own features, concatenated."""

    def __init__(self, **options):
        super().__init__(aggr="mean", **options)
        self.message_lin, self.update_lin = nn.Linear(19, 10), nn.Linear(18, 6)

    def forward(self, x, edge_index, edge_attr):
        return self.propagate(edge_index, x=x, edge_attr=edge_attr)

    def message(self, x_i, x_j, edge_attr):
        return self.message_lin(torch.cat([x_i, x_j, edge_attr], dim=-1)).relu()

    def update(self, aggr_out, x):
        return self.update_lin(torch.cat([x, aggr_out], dim=-1))


class Attention(MessagePassing):
    """Attention computed by edge_updater, as GATConv does it."""

    def __init__(self, heads=2):
        super().__init__(node_dim=0)
        self.heads, self.lin = heads, nn.Linear(8, heads * 5)
        self.source, self.target = (nn.Parameter(torch.randn(1, heads, 5)) for _ in range(2))

    def forward(self, x, edge_index):
        x = self.lin(x).view(-1, self.heads, 5)
        alpha = ((x * self.source).sum(-1), (x * self.target).sum(-1))
        alpha = self.edge_updater(edge_index, alpha=alpha)
        return self.propagate(edge_index, x=x, alpha=alpha).flatten(1)

    def edge_update(self, alpha_j, alpha_i, index, ptr, size_i):
        return softmax(F.leaky_relu(alpha_j + alpha_i, 0.2), index, ptr, size_i)

    def message(self, x_j, alpha):
        return x_j * alpha.unsqueeze(-1)


class ConcatAttention(MessagePassing):
    """One linear layer scores the concatenation of both ends."""

    def __init__(self):
        super().__init__(aggr="add")
        self.lin, self.score = nn.Linear(8, 6), nn.Linear(12, 1)

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=self.lin(x))

    def message(self, x_i, x_j, index, size_i):
        alpha = F.leaky_relu(self.score(torch.cat([x_i, x_j], dim=-1)))
        return softmax(alpha, index, num_nodes=size_i) * x_j


class DotAttention(MessagePassing):
    """Queries, keys and values in heads; scores by einsum."""

    def __init__(self, heads=2):
        super().__init__(aggr="add", node_dim=0)
        self.heads, self.qkv, self.out = heads, nn.Linear(8, 3 * heads * 5), nn.Linear(heads * 5, 6)

    def forward(self, x, edge_index):
        q, k, v = (part.view(-1, self.heads, 5) for part in self.qkv(x).chunk(3, dim=-1))
        out = self.propagate(edge_index, q=q, k=k, v=v)
        return self.out(out.reshape(x.size(0), -1))

    def message(self, q_i, k_j, v_j, index, size_i):
        alpha = softmax(torch.einsum("ehd,ehd->eh", q_i, k_j) / 5**0.5, index, num_nodes=size_i)
        return torch.einsum("eh,ehd->ehd", alpha, v_j)


class OwnAggregate(MessagePassing):
    """Aggregation overridden by a scatter of its own."""

    def __init__(self, reduce="mean"):
        super().__init__(aggr=None)
        self.reduce, self.lin, self.root = reduce, nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=x)

    def message(self, x_j):
        return self.lin(x_j)

    def aggregate(self, inputs, index, dim_size=None):
        return scatter(inputs, index, dim=self.node_dim, dim_size=dim_size, reduce=self.reduce)

    def update(self, aggr_out, x):
        return aggr_out + self.root(x)


class TwoAggregates(MessagePassing):
    """Mean and maximum next to each other."""

    def __init__(self):
        super().__init__(aggr=None)
        self.lin = nn.Linear(16, 6)

    def forward(self, x, edge_index):
        return self.lin(self.propagate(edge_index, x=x))

    def message(self, x_j):
        return x_j

    def aggregate(self, inputs, index, ptr=None, dim_size=None):
        mean = scatter(inputs, index, dim=0, dim_size=dim_size, reduce="mean")
        return torch.cat([mean, scatter(inputs, index, dim=0, dim_size=dim_size, reduce="max")], dim=-1)


class Fused(MessagePassing):
    """A layer with message_and_aggregate for sparse matrices, called with an edge_index."""

    def __init__(self):
        super().__init__(aggr="add")
        self.lin = nn.Linear(8, 6)

    def forward(self, x, edge_index):
        return self.lin(self.propagate(edge_index, x=x))

    def message(self, x_j):
        return x_j

    def message_and_aggregate(self, adj_t, x):
        return spmm(adj_t, x, reduce=self.aggr)


class Weighted(MessagePassing):
    """``x @ self.weight`` before messages times an edge weight; any aggregation."""

    def __init__(self, aggr="add", width=6, **options):
        super().__init__(aggr=aggr, **options)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.zeros(width))

    def forward(self, x, edge_index, edge_weight):
        return self.propagate(edge_index, x=x @ self.weight, edge_weight=edge_weight) + self.bias

    def message(self, x_j, edge_weight):
        return x_j * edge_weight.view(-1, 1)


class Filtered(MessagePassing):
    """Messages times a linear map of the edge's features (a continuous filter)."""

    def __init__(self, aggr="add"):
        super().__init__(aggr=aggr)
        self.lin, self.edge, self.out = nn.Linear(8, 10), nn.Linear(3, 10), nn.Linear(10, 6)

    def forward(self, x, edge_index, edge_attr):
        return self.out(self.propagate(edge_index, x=self.lin(x), edge_attr=edge_attr).relu())

    def message(self, x_j, edge_attr):
        return x_j * self.edge(edge_attr)


class Gated(MessagePassing):
    """A gate and a value from one linear layer, split by chunk in the message."""

    def __init__(self):
        super().__init__(aggr="add")
        self.lin = nn.Linear(16, 12)

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=x)

    def message(self, x_i, x_j):
        gate, value = self.lin(torch.cat([x_i, x_j], dim=-1)).chunk(2, dim=-1)
        return torch.sigmoid(gate) * F.softplus(value)


class Stacked(MessagePassing):
    """Two views of a message, stacked, permuted and flattened."""

    def __init__(self):
        super().__init__(aggr="mean")
        self.first, self.second, self.out = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(12, 5)

    def forward(self, x, edge_index):
        return self.out(self.propagate(edge_index, x=x))

    def message(self, x_i, x_j):
        both = torch.stack([self.first(x_j), self.second(x_i - x_j)], dim=1)
        return both.permute(0, 2, 1).reshape(both.size(0), -1)
