"""Layers and models that only the tests of servers need."""

from __future__ import annotations

from typing import Any

import torch
import torch_geometric.nn as gnn
from torch import Tensor, nn
from torch_geometric.utils import degree, softmax

INPUT, HIDDEN, OUTPUT = 8, 16, 5


class Stacked(nn.Module):
    """Layers with ReLU between them; linear layers take the nodes only, others all further arguments too."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x, edge_index, edge_attr=None, edge_weight=None, edge_type=None):
        more = [value for value in (edge_attr, edge_weight, edge_type) if value is not None]
        for place, layer in enumerate(self.layers):
            x = x.relu() if place else x
            x = layer(x) if isinstance(layer, nn.Linear) else layer(x, edge_index, *more)
        return x


class Residual(nn.Module):
    """Three convolutions, each added to what it read."""

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(INPUT, HIDDEN), nn.Linear(HIDDEN, OUTPUT)
        self.convs = nn.ModuleList(conv(HIDDEN, HIDDEN) for _ in range(3))

    def forward(self, x, edge_index):
        x = self.enter(x)
        for conv in self.convs:
            x = x + conv(x, edge_index).relu()
        return self.leave(x)


class InitialResidual(nn.Module):
    """GCNII: every layer reads the first hidden value too."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(INPUT, HIDDEN), nn.Linear(HIDDEN, OUTPUT)
        self.convs = nn.ModuleList(gnn.GCN2Conv(HIDDEN, 0.1, 0.5, layer) for layer in (1, 2))

    def forward(self, x, edge_index):
        first = x = self.enter(x).relu()
        for conv in self.convs:
            x = conv(x, first, edge_index).relu()
        return self.leave(x)


class Frequencies(nn.Module):
    """FAConv twice, on one first hidden value."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(INPUT, HIDDEN), nn.Linear(HIDDEN, OUTPUT)
        self.convs = nn.ModuleList(gnn.FAConv(HIDDEN) for _ in range(2))

    def forward(self, x, edge_index):
        first = x = self.enter(x).relu()
        for conv in self.convs:
            x = conv(x, first, edge_index)
        return self.leave(x)


def local_gps() -> nn.Module:
    """The local half of GPS: a convolution, a norm over channels, and a perceptron, with residuals."""

    class Local(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = gnn.GINConv(nn.Linear(INPUT, INPUT)), nn.LayerNorm(INPUT)
            self.mlp = nn.Sequential(nn.Linear(INPUT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, INPUT))

        def forward(self, x, edge_index):
            h = self.norm(x + self.conv(x, edge_index))
            return self.mlp(h) + h

    return Stacked(Local(), Local())


class Embedded(nn.Module):
    """A type of every node, looked up, beside its features."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)
        self.convs = nn.ModuleList([gnn.SAGEConv(INPUT + 4, HIDDEN), gnn.GCNConv(HIDDEN, OUTPUT)])

    def forward(self, x, z, edge_index):
        x = torch.cat([x, self.table(z)], dim=-1)
        return self.convs[1](self.convs[0](x, edge_index).relu(), edge_index)


class TwoOutputs(nn.Module):
    """Scores and hidden features, a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([gnn.SAGEConv(INPUT, HIDDEN), gnn.SAGEConv(HIDDEN, OUTPUT)])

    def forward(self, x, edge_index):
        hidden = self.convs[0](x, edge_index).relu()
        return self.convs[1](hidden, edge_index).log_softmax(-1), hidden


class NamedOutputs(TwoOutputs):
    """The same as a dictionary."""

    def forward(self, x, edge_index):
        scores, hidden = super().forward(x, edge_index)
        return {"scores": scores, "hidden": hidden}


class NoEdges(nn.Module):
    """A perceptron that reads no edge in its second half."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = gnn.SAGEConv(INPUT, HIDDEN)
        self.mlp = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUTPUT))

    def forward(self, x, edge_index):
        return self.mlp(self.conv(x, edge_index).relu())


class SomeColumns(nn.Module):
    """Reads columns 1, 2 and 5 of eight: two as a slice that goes along edges, one at the node itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lin = gnn.SAGEConv(2, HIDDEN), nn.Linear(HIDDEN + 1, OUTPUT)

    def forward(self, x, edge_index):
        hidden = self.conv(x[:, 1:3], edge_index).relu()
        return self.lin(torch.cat([hidden, x[:, 5:6]], dim=-1))


class Spread(gnn.MessagePassing):
    """A message of both ends' features."""

    def __init__(self, source: int, target: int, aggr: str = "add", flow: str = "source_to_target") -> None:
        super().__init__(aggr=aggr, flow=flow)
        self.message_lin, self.own = nn.Linear(2 * source, target), nn.Linear(source, target)

    def forward(self, x, edge_index):
        return self.own(x) + self.propagate(edge_index, x=x)

    def message(self, x_i, x_j):
        return self.message_lin(torch.cat([x_i, x_j - x_i], dim=-1)).relu()


class Gate(gnn.MessagePassing):
    """Messages times a gate that reads both ends and the edge."""

    def __init__(self, source: int, edge: int, target: int) -> None:
        super().__init__(aggr="mean")
        self.gate, self.lin = nn.Linear(2 * source + edge, target), nn.Linear(source, target)

    def forward(self, x, edge_index, edge_attr):
        return self.propagate(edge_index, x=x, h=self.lin(x), edge_attr=edge_attr)

    def message(self, x_i, x_j, h_j, edge_attr):
        return h_j * torch.sigmoid(self.gate(torch.cat([x_i, x_j, edge_attr], dim=-1)))


class Degrees(nn.Module):
    """The number of edges into a node is one of its features, and scales what its neighbours read."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([gnn.SAGEConv(INPUT + 1, HIDDEN), gnn.SAGEConv(HIDDEN, OUTPUT)])

    def forward(self, x, edge_index):
        count = degree(edge_index[1], x.size(0), dtype=x.dtype).view(-1, 1)
        x = self.convs[0](torch.cat([x, count], dim=-1), edge_index).relu()
        return self.convs[1](x / (count + 1), edge_index)


class EdgeState(nn.Module):
    """Edges have hidden features of their own, which the second layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.edge = nn.Linear(2 * INPUT + 3, HIDDEN)
        self.convs = nn.ModuleList([gnn.GINEConv(nn.Linear(INPUT, HIDDEN), edge_dim=HIDDEN), gnn.GINEConv(nn.Linear(HIDDEN, OUTPUT), edge_dim=HIDDEN)])  # fmt: skip

    def forward(self, x, edge_index, edge_attr):
        state = self.edge(torch.cat([x[edge_index[0]], x[edge_index[1]], edge_attr], dim=-1)).relu()
        return self.convs[1](self.convs[0](x, edge_index, state).relu(), edge_index, state)


class MeanDegree(nn.Module):
    """Features are divided by the mean number of edges of a node: one number that depends on all edges."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([gnn.SAGEConv(INPUT, HIDDEN), gnn.SAGEConv(HIDDEN, OUTPUT)])

    def forward(self, x, edge_index):
        mean = degree(edge_index[1], x.size(0), dtype=x.dtype).mean()
        return self.convs[1](self.convs[0](x, edge_index).relu() / (mean + 1), edge_index)


class Scores(nn.Module):
    """Attention written out with PyG's softmax and index_add."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.score, self.leave = nn.Linear(INPUT, HIDDEN), nn.Linear(2 * HIDDEN, 1), nn.Linear(HIDDEN, OUTPUT)

    def forward(self, x, edge_index):
        h = self.lin(x)
        source, target = edge_index
        score = self.score(torch.cat([h[source], h[target]], dim=-1)).squeeze(-1)
        share = softmax(score, target, num_nodes=x.size(0))
        return self.leave(torch.zeros_like(h).index_add(0, target, share.unsqueeze(-1) * h[source]))


class Typed(nn.Module):
    """A layer over types, then a linear layer for the users."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv, self.lin = conv, nn.Linear(8, OUTPUT)

    def forward(self, x_dict, edge_index_dict):
        return self.lin(self.conv(x_dict, edge_index_dict)["user"].relu())


class HeteroConvs(nn.Module):
    """Two rounds of three relations: SAGE, GCN within a type, and GAT; answers for both types."""

    def __init__(self) -> None:
        super().__init__()

        def layer(user: int, item: int, width: int) -> nn.Module:
            return gnn.HeteroConv(
                {
                    ("user", "buys", "item"): gnn.SAGEConv((user, item), width),
                    ("item", "sold", "user"): gnn.GATConv((item, user), width, add_self_loops=False),
                    ("user", "knows", "user"): gnn.GCNConv(user, width),
                },
                aggr="sum",
            )

        self.convs = nn.ModuleList([layer(INPUT, 5, HIDDEN), layer(HIDDEN, HIDDEN, OUTPUT)])

    def forward(self, x_dict, edge_index_dict):
        x_dict = {kind: x.relu() for kind, x in self.convs[0](x_dict, edge_index_dict).items()}
        return self.convs[1](x_dict, edge_index_dict)


class HeteroAttributes(nn.Module):
    """One relation has features of edges."""

    def __init__(self) -> None:
        super().__init__()
        self.items = gnn.GINEConv(nn.Linear(5, HIDDEN), edge_dim=3)
        self.users = gnn.SAGEConv((HIDDEN, INPUT), HIDDEN)
        self.friends = gnn.GATv2Conv(HIDDEN, OUTPUT, add_self_loops=False)

    def forward(self, x_dict: dict[str, Tensor], edge_index_dict: dict[Any, Tensor], edge_attr_dict: dict[Any, Tensor]):
        near = ("item", "near", "item")
        items = self.items(x_dict["item"], edge_index_dict[near], edge_attr_dict[near]).relu()
        users = self.users((items, x_dict["user"]), edge_index_dict["item", "sold", "user"]).relu()
        return self.friends(users, edge_index_dict["user", "knows", "user"])
