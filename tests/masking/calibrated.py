"""Models and graphs of tests with calibration data."""

from itertools import pairwise

import torch
from torch_geometric.nn import SAGEConv

from tests.networks import Stack, random_graph


def chain(conv=SAGEConv, width=16, depth=3):
    torch.manual_seed(0)
    widths = [8, *[width] * (depth - 1), 4]
    return Stack(*(conv(a, b) for a, b in pairwise(widths)), dropout=0.0).double().eval()


def graph(nodes=80, seed=0, width=8):
    return random_graph(nodes, 4 * nodes, width, seed)
