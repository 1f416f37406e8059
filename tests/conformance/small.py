"""Small models around a module that has nothing to prune by itself, or that is a function."""

from typing import Any

import torch
import torch_geometric.nn as gnn
from torch import Tensor, nn
from torch_geometric.data import Data


class Between(nn.Module):
    """Linear, the module, Linear: what the module is given was computed, and what it returns is read."""

    def __init__(self, module: nn.Module, width: int = 8):
        super().__init__()
        self.before = nn.Linear(8, 8)
        self.module = module
        self.after = nn.Linear(width, 6)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor | None = None,
        edge_weight: Tensor | None = None,
        edge_attr: Tensor | None = None,
        batch: Tensor | None = None,
        batch_size: int | None = None,
        index: Tensor | None = None,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
        dim: int | None = None,
        max_num_elements: int | None = None,
        type_vec: Tensor | None = None,
        msg: Tensor | None = None,
        mask: Tensor | None = None,
        adj: Tensor | None = None,
    ) -> Any:
        found = {name: value for name, value in locals().items() if name not in ("self", "x", "edge_index")}
        given = {name: value for name, value in found.items() if value is not None and not name.startswith("__")}
        first = () if edge_index is None else (edge_index,)
        out = self.module(self.before(x).relu(), *first, **given)
        return (self.after(out[0]), *out[1:]) if isinstance(out, tuple) else self.after(out)


class GraphClassifier(nn.Module):
    """Two convolutions, a global pool, and a linear layer."""

    def __init__(self, pool: Any, width: int = 8):
        super().__init__()
        self.conv1, self.conv2 = gnn.GCNConv(8, 8), gnn.GraphConv(8, 8)
        self.pool, self.lin = pool, nn.Linear(width, 6)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor | None, size: int | None = None) -> Tensor:
        x = self.conv2(self.conv1(x, edge_index).relu(), edge_index).relu()
        return self.lin(self.pool(x, batch) if size is None else self.pool(x, batch, size))


class Hierarchy(nn.Module):
    """Convolution, pooling of nodes, convolution, global pool, linear layer; as PyG's examples stack them."""

    def __init__(self, pool: nn.Module):
        super().__init__()
        self.conv1, self.pool, self.conv2 = gnn.GraphConv(8, 8), pool, gnn.GraphConv(8, 8)
        self.lin = nn.Linear(16, 6)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        x = self.conv1(x, edge_index).relu()
        x, edge_index, _, batch = self.pool(x, edge_index, None, batch)[:4]
        x = self.conv2(x, edge_index).relu()
        both = [gnn.global_max_pool(x, batch), gnn.global_mean_pool(x, batch)]
        return self.lin(torch.cat(both, dim=1))


class Clustered(nn.Module):
    """Linear, pooling of given clusters, Linear; ``form`` is how the pool takes its arguments."""

    def __init__(self, pool: Any, form: str = "tensors", **fixed: Any):
        super().__init__()
        self.before, self.after = nn.Linear(8, 8), nn.Linear(8, 6)
        self.pool, self.form, self.fixed = pool, form, fixed

    def forward(self, x: Tensor, edge_index: Tensor, cluster: Tensor, batch: Tensor) -> Any:
        x = self.before(x).relu()
        if self.form == "tensors":
            found, batch = self.pool(cluster, x, batch, **self.fixed)
            return self.after(found), batch
        data = Data(x=x, edge_index=edge_index, batch=batch)
        data = self.pool(data, **self.fixed) if self.form == "neighbours" else self.pool(cluster, data)
        return self.after(data.x), data.edge_index, data.batch


class DenseNetwork(nn.Module):
    """A step of DiffPool or MinCutPool: assignment and embedding, the pool, a dense layer, a linear one."""

    def __init__(self, pool: Any, **fixed: Any):
        super().__init__()
        self.assign, self.embed = gnn.DenseSAGEConv(8, 4), gnn.DenseGraphConv(8, 8)
        self.conv, self.lin = gnn.DenseGCNConv(8, 8), nn.Linear(8, 6)
        self.pool, self.fixed = pool, fixed

    def forward(self, x: Tensor, adj: Tensor, mask: Tensor | None = None) -> Any:
        s, x = self.assign(x, adj, mask), self.embed(x, adj, mask).relu()
        x, adj, first, second = self.pool(x, adj, s, mask, **self.fixed)
        return self.lin(self.conv(x, adj).relu().mean(dim=1)), first, second


class Modularity(nn.Module):
    """DMoN: a convolution, the pool, a dense layer."""

    def __init__(self, pool: gnn.DMoNPooling):
        super().__init__()
        self.before, self.pool, self.after = nn.Linear(8, 8), pool, gnn.DenseGraphConv(8, 6)

    def forward(self, x: Tensor, adj: Tensor, mask: Tensor | None = None) -> Any:
        _, x, adj, *losses = self.pool(self.before(x).relu(), adj, mask)
        return (self.after(x, adj), *losses)
