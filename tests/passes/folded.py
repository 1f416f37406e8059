"""Models whose batch norms and dropout go for inference, and graphs to compare them on."""

import torch
from torch import nn
from torch_geometric.utils import scatter

import upscale_fx
from tests.networks import random_graph
from tests.zoo import randomise
from upscale_fx.passes import Pipeline, ShareStructure
from upscale_fx.passes.fold_batch_norm import FoldBatchNorm
from upscale_fx.passes.remove_dropout import RemoveDropout

IN, WIDTH, OUT = 12, 8, 3


def folded(model, *example):
    """A model without its dropout and, where they fold, its batch norms."""
    traced = upscale_fx.trace(model, example or None)
    return Pipeline([ShareStructure(), RemoveDropout(), FoldBatchNorm()])(traced).graph_module


def ready(model):
    """In float64 and eval mode, biases, scales and statistics random."""
    model = model.double()
    randomise(model)
    return model.eval()


def calls(gm, *kinds):
    """Names of the modules of these kinds that a graph calls."""
    called = (str(node.target) for node in gm.graph.nodes if node.op == "call_module")
    return [name for name in called if isinstance(gm.get_submodule(name), kinds)]


def norms(gm):
    return calls(gm, nn.BatchNorm1d)


def graph(nodes=20, edges=60, dtype=torch.float64, width=IN):
    return random_graph(nodes, edges, width, seed=nodes, dtype=dtype)


GRAPHS = (graph(), graph(1, 0), graph(50, 40))


class Normed(nn.Module):
    """A layer and a batch norm."""

    def __init__(self, layer, width=WIDTH, norm=nn.BatchNorm1d):
        super().__init__()
        self.layer, self.norm = layer, norm(width)

    def forward(self, x, edge_index):
        return self.norm(self.layer(x, edge_index))


class Form(nn.Module):
    """A batch norm behind what a function makes of two linear layers, in front of another one."""

    def __init__(self, function, norm=None, biases=True):
        super().__init__()
        self.a, self.b = (nn.Linear(IN, WIDTH, bias=biases) for _ in range(2))
        self.p, self.w = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH, WIDTH))
        self.norm, self.c, self.function = norm or nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, OUT), function

    def forward(self, x, edge_index):
        return self.function(self, x, edge_index)


def sent(x, edge_index, reduce="sum"):
    return scatter(x.index_select(0, edge_index[0]), edge_index[1], 0, x.size(0), reduce)
