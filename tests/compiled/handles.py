"""Pruned models of the zoo before and after their structure half became a module, and handles of their graphs."""

import copy
import functools

import torch

import upscale_fx
from tests import zoo
from upscale_fx.passes import SplitStructure


@functools.cache
def before_and_after(name, amount):
    """A pruned model right before and after its structure half became a module."""
    steps = {}
    example = zoo.ZOO[name].example()
    upscale_fx.prune(
        zoo.make(name), amount, example_kwargs=example, callback=lambda one, *pair: steps.update({type(one): pair})
    )
    return steps[SplitStructure]


def pruned(name, amount=0.5):
    return copy.deepcopy(before_and_after(name, amount)[1])


def assert_identical(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


GCN = zoo.ZOO["family-gcn"].inputs(23, 70)
X, EDGES = GCN["x"], GCN["edge_index"]
WEIGHTS = torch.rand(70, dtype=torch.float64) + 0.5
