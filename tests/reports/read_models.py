"""Models of tests of what people read."""

import functools

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

import upscale_fx
from tests.selection import every
from upscale_fx.models import SAGE, GATv2, GraphTransformer, JKNet, SimpleGCN

FAMILIES = {
    "GCN": SimpleGCN,
    "SAGE": SAGE,
    "GATv2": GATv2,
    "GraphTransformer": GraphTransformer,
    "JKNet cat": JKNet,
    "JKNet max": lambda *widths: JKNet(*widths, mode="max"),
    "JKNet lstm": lambda *widths: JKNet(*widths, mode="lstm"),
}
families = pytest.mark.parametrize("family", FAMILIES)
#: Where many tests take every family.
few_families = pytest.mark.parametrize("family", every(3, FAMILIES, start=1))
INPUTS = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([[0, 1, 2, 3, 8], [1, 2, 3, 0, 4]])


def seeded(build, *widths):
    torch.manual_seed(0)
    return build(*widths).eval()


def tiny():
    """Two layers, whose first makes 8 channels that ``lin_l`` and ``lin_r`` of the second read."""
    return seeded(lambda: SAGE(4, 8, 2, num_layers=2))


@functools.cache
def pruned(family, amount):
    """A model and what prune makes of it; shared, so not to be changed."""
    model = seeded(FAMILIES[family], 6, 16, 3)
    return model, upscale_fx.prune(model, amount)


@functools.cache
def masked_and_traced(family):
    """A masked model in float64 and its graph; shared, so not to be changed."""
    masked = upscale_fx.mask(seeded(FAMILIES[family], 4, 8, 2).double(), 0.5)
    return masked, upscale_fx.trace(masked)


class Normalised(nn.Module):
    """A norm over channels reads all 8 that ``convs.0.lin`` makes."""

    def __init__(self, norm):
        super().__init__()
        self.convs = nn.ModuleList([GCNConv(4, 8), GCNConv(8, 8), GCNConv(8, 2)])
        self.norm = norm

    def forward(self, x, edge_index):
        h = self.norm(self.convs[0](x, edge_index))
        return self.convs[2](self.convs[1](h, edge_index).relu(), edge_index)
