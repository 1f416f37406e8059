"""A network on two kinds of nodes and three relations between them."""

import torch
from torch import nn
from torch_geometric.nn import HeteroConv, SAGEConv

RELATIONS = [("user", "buys", "item"), ("item", "bought_by", "user"), ("user", "knows", "user")]
WIDTHS = {"user": 5, "item": 7}
SIZES = ({"user": 11, "item": 8}, {"user": 23, "item": 31})


class Hetero(nn.Module):
    """Two layers; ``returned`` is a node type, or None for the dictionary of both."""

    def __init__(self, returned=None, hidden=16):
        super().__init__()
        self.first = HeteroConv({r: SAGEConv((WIDTHS[r[0]], WIDTHS[r[2]]), hidden) for r in RELATIONS}, aggr="sum")
        self.second = HeteroConv({r: SAGEConv(hidden, 4) for r in RELATIONS}, aggr="sum")
        self.returned = returned

    def forward(self, x_dict, edge_index_dict):
        hidden = {key: h.relu() for key, h in self.first(x_dict, edge_index_dict).items()}
        result = self.second(hidden, edge_index_dict)
        return result if self.returned is None else result[self.returned]


def graph(sizes, seed=0, widths=WIDTHS):
    draw = torch.Generator().manual_seed(seed)
    x = {kind: torch.randn(n, widths[kind], generator=draw, dtype=torch.float64) for kind, n in sizes.items()}
    edges = {
        (a, r, b): torch.stack(
            [torch.randint(sizes[a], (40,), generator=draw), torch.randint(sizes[b], (40,), generator=draw)]
        )
        for a, r, b in RELATIONS
    }
    return x, edges
