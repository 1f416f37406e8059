"""Models that are cast to another dtype."""

import torch
import torch.nn.functional as F
from torch import nn

import upscale_fx
from tests.networks import random_graph
from tests.zoo import randomise
from upscale_fx.compiled.module import record_of, remember_unfused
from upscale_fx.passes import (
    CastPrecision,
    FuseAttention,
    FusePropagate,
    LiftToNodes,
    MergeSums,
    Pipeline,
    Reassociate,
    RemoveDeadNodes,
    ShareStructure,
    SortEdges,
    WriteInPlace,
)

IN, WIDTH, OUT = 12, 8, 3


def precision_line(gm):
    """What a report says of the dtype that a graph was cast to."""
    precision = record_of(gm).precision
    return None if precision is None else str(precision)


def graph(nodes=20, edges=60, dtype=torch.float32):
    x, edge_index = random_graph(nodes, edges, IN, seed=nodes, dtype=torch.float32)
    return x.to(dtype), edge_index


class Two(nn.Module):
    """Two convolutions."""

    def __init__(self, conv, between=F.relu):
        super().__init__()
        self.one, self.two, self.between = conv(IN, WIDTH), conv(WIDTH, OUT), between

    def forward(self, x, edge_index):
        return self.two(self.between(self.one(x, edge_index)), edge_index)


def cast(model, dtype, example=None, fuse=True):
    """A model in another dtype, fused or not."""
    traced = upscale_fx.trace(model, example)
    cleaned = Pipeline([ShareStructure(), RemoveDeadNodes()])(traced).graph_module
    remember_unfused(cleaned)
    fusing = [SortEdges(), LiftToNodes(), FusePropagate(), FuseAttention(), Reassociate(), MergeSums()]
    return Pipeline([*(fusing if fuse else []), CastPrecision(dtype), WriteInPlace()])(cleaned).graph_module


def single(conv):
    """Two convolutions in float32 and eval mode."""
    model = Two(conv)
    randomise(model)
    return model.eval()
