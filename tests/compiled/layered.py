"""Models whose compiled graphs call layers as modules, and ways to compile them."""

import copy
from functools import cache

import torch
from torch import nn
from torch_geometric.nn import GAT, GCN, GIN, GATConv, GCNConv, GraphSAGE, RGCNConv

import upscale_fx

DRAW = torch.Generator().manual_seed(0)
EDGES = torch.randint(40, (2, 160), generator=DRAW)
X = torch.randn(40, 16, generator=DRAW, dtype=torch.float64)
KINDS, TYPES = torch.randint(10, (40,), generator=DRAW), torch.randint(3, (160,), generator=DRAW)


class Mixed(nn.Module):
    """Layers of many kinds."""

    def __init__(self):
        super().__init__()
        self.emb, self.att, self.norm = nn.Embedding(10, 16), GATConv(16, 8, heads=2), nn.LayerNorm(16)
        self.lin, self.bn, self.conv, self.act = nn.Linear(16, 32), nn.BatchNorm1d(32), GCNConv(32, 24), nn.PReLU()
        self.head = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Dropout(0.5), nn.Linear(24, 5))

    def forward(self, z, edge_index):
        x = self.norm(self.att(self.emb(z), edge_index))
        x = self.bn(self.lin(x)).relu()
        return self.head(self.act(self.conv(x, edge_index)))


class Relational(nn.Module):
    """Weights per relation, and one linear layer called twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.twice, self.head = RGCNConv(16, 24, 3), nn.Linear(24, 24), nn.Linear(24, 4)

    def forward(self, x, edge_index, edge_type):
        x = self.conv(x, edge_index, edge_type).relu()
        return self.head(self.twice(self.twice(x).relu()).relu())


MODELS = {
    "SAGE": (lambda: GraphSAGE(16, 32, 2, 4), (X, EDGES)),
    "GCN": (lambda: GCN(16, 32, 2, 4), (X, EDGES)),
    "GIN": (lambda: GIN(16, 32, 2, 4), (X, EDGES)),
    "GATv2": (lambda: GAT(16, 32, 2, 4, v2=True, heads=2), (X, EDGES)),
    "mixed": (Mixed, (KINDS, EDGES)),
    "relational": (Relational, (X, EDGES, TYPES)),
}
WAYS = {
    "trace": upscale_fx.trace,
    "compact": lambda model, inputs: upscale_fx.compact(
        upscale_fx.mask(model, 0.5, example_inputs=inputs), example_inputs=inputs
    ),
    "prune": lambda model, inputs: upscale_fx.prune(model, 0.5, example_inputs=inputs),
    "inference": lambda model, inputs: upscale_fx.optimize(upscale_fx.trace(model, inputs), inference=True),
}


@cache
def _compiled(name, way):
    torch.manual_seed(0)
    build, inputs = MODELS[name]
    return WAYS[way](build().double().eval(), inputs)


def compiled(name, way="prune"):
    """A new compiled model and its inputs."""
    return copy.deepcopy(_compiled(name, way)), [value.clone() for value in MODELS[name][1]]


def taking_hooks(gm):
    """Paths of modules that take hooks."""
    found = []
    for path, module in gm.named_modules():
        try:
            module.register_forward_hook(_nothing).remove()
        except upscale_fx.PartError:
            continue
        found.append(path)
    return found


def _nothing(*given):
    return None
