"""Models and graphs of tests of budgets."""

import torch
from torch import nn
from torch_geometric.nn import GATConv, GCNConv, RGCNConv

import upscale_fx
from tests.networks import Stack
from upscale_fx.models import SAGE, GATv2, GraphTransformer, JKNet, SimpleGCN

WIDTH, NODES = 12, 400


def graph(width=WIDTH, nodes=NODES, seed=0):
    """Features on few directions, so that channels differ in worth, and edges."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(nodes, 6, generator=draw) @ torch.randn(6, width, generator=draw)
    return x + 0.1 * torch.randn(nodes, width, generator=draw), torch.randint(nodes, (2, 5 * nodes), generator=draw)


class Stream(Stack):
    """Every hidden layer but the first adds to what it is given."""

    def run(self, x, *graph):
        first, *hidden, last = self.convs
        x = first(x, *graph).relu()
        for conv in hidden:
            x = x + conv(x, *graph).relu()
        return last(x, *graph)


class Relational(Stack):
    def forward(self, x, edge_index, edge_type):
        return self.run(x, edge_index, edge_type)


class Perceptron(Stack):
    def forward(self, x):
        return self.run(x)


def gat(hidden):
    return Stack(GATConv(WIDTH, hidden // 4, heads=4), GATConv(hidden, hidden // 4, heads=4), GATConv(hidden, 5))


def residual(hidden):
    return Stream(GCNConv(WIDTH, hidden), GCNConv(hidden, hidden), GCNConv(hidden, hidden), GCNConv(hidden, 5))


def relational(hidden):
    return Relational(RGCNConv(WIDTH, hidden, 3), RGCNConv(hidden, hidden, 3, num_bases=2), RGCNConv(hidden, 5, 3))


def perceptron(hidden):
    return Perceptron(nn.Linear(WIDTH, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 5))


#: Models of a hidden width, and the number of heads, whose channels go together.
MODELS = {
    "gcn": (lambda hidden: SimpleGCN(WIDTH, hidden, 5), 1),
    "sage": (lambda hidden: SAGE(WIDTH, hidden, 5), 1),
    "gatv2": (lambda hidden: GATv2(WIDTH, hidden, 5), 4),
    "transformer": (lambda hidden: GraphTransformer(WIDTH, hidden, 5), 4),
    "jknet": (lambda hidden: JKNet(WIDTH, hidden, 5), 1),
    "gat": (gat, 4),
    "residual": (residual, 1),
    "rgcn": (relational, 1),
    "mlp": (perceptron, 1),
}


def make(name, hidden=48, seed=0):
    torch.manual_seed(seed)
    model = MODELS[name][0](hidden).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.normal_(0, 0.2)
    return model


def calibration(name):
    x, edge_index = graph()
    edge_type = torch.randint(3, (edge_index.shape[1],), generator=torch.Generator().manual_seed(1))
    return {"mlp": (x,), "rgcn": (x, edge_index, edge_type)}.get(name, (x, edge_index))


def pruned(name, hidden=48, **options):
    return upscale_fx.prune(make(name, hidden), calibration=calibration(name), progress=False, **options)
