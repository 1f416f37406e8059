"""Models, graphs and calls of tests of the backend."""

import torch
import torch_geometric.nn as gnn

from tests.networks import FAMILIES, random_graph
from tests.zoo import randomise

SIZES = ((23, 70), (40, 31), (57, 200))  # nodes, edges


def family(cls):
    return lambda: cls(12, 16, 5, num_layers=2)


def basic(cls, **options):
    return lambda: cls(12, 16, 2, 5, **options)


MODELS = {
    **{cls.__name__: family(cls) for cls in FAMILIES},
    "GCN": basic(gnn.models.GCN, dropout=0.3),
    "GraphSAGE": basic(gnn.models.GraphSAGE, jk="max"),
    "GAT": basic(gnn.models.GAT, heads=4),
    "GIN": basic(gnn.models.GIN, norm="batch_norm"),
}


def build(make=None):
    torch.manual_seed(0)
    model = (make or MODELS["SAGE"])().double().eval()
    randomise(model)  # biases start at zero, all alike
    return model


def graph(nodes, edges, seed=1):
    return random_graph(nodes, edges, 12, seed)


def compile_(model, backend="upscale", dynamic=True, **options):
    return torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic, options={"inner": "eager", **options})
