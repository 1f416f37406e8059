"""Models that are fused, and the operators they run on."""

from collections import Counter

import torch

import upscale_fx
from tests import zoo
from tests.networks import random_graph
from upscale_fx import operators
from upscale_fx.compiled.module import all_nodes

WIDTH = 8
OPERATORS = {getattr(operators, name): name for name in operators.__all__}


def graph(nodes=11, edges=40, dtype=torch.float64):
    return random_graph(nodes, edges, WIDTH, seed=nodes, dtype=dtype)


def fused(model, **options):
    torch.manual_seed(0)
    zoo.randomise(model := model.double().eval())
    return model, upscale_fx.optimize(upscale_fx.trace(model, graph()), **options)


def operators_of(gm):
    return Counter(OPERATORS[node.target] for node in all_nodes(gm) if node.target in OPERATORS)
