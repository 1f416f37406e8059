"""Models that are one layer after another."""

from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
import torch_geometric.nn as gnn
from torch import nn

from tests.networks import Stack
from tests.zoo.entry import DROPOUT, EDGE, HIDDEN, INPUT, OUTPUT


class WeightedStack(Stack):
    def forward(self, x, edge_index, edge_weight):
        return self.run(x, edge_index, edge_weight)


class EdgeStack(Stack):
    def forward(self, x, edge_index, edge_attr):
        return self.run(x, edge_index, edge_attr)


def chain(conv, *widths, act=torch.relu):
    """Layers of a convolution from width to width."""
    return Stack(*(conv(source, target) for source, target in pairwise(widths)), act=act, dropout=DROPOUT)


def three(conv, stack=Stack, **options):
    """Three layers of a convolution whose output is as wide as it is told."""
    widths = (INPUT, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, OUTPUT)
    return stack(*(conv(*width, **options) for width in widths), dropout=DROPOUT)


def heads(conv, count=4, stack=Stack, **options):
    """Three attention layers whose hidden ones concatenate their heads and whose last one averages them."""
    each = HIDDEN // count
    return stack(
        conv(INPUT, each, heads=count, **options),
        conv(HIDDEN, each, heads=count, **options),
        conv(HIDDEN, OUTPUT, heads=count, concat=False, **options),
        act=F.elu,
        dropout=DROPOUT,
    )


def averaged(conv, count=4, stack=Stack, **options):
    """Three attention layers that all average their heads."""
    return three(partial(conv, heads=count, concat=False), stack, **options)


def mlp(*widths, norm=False, act=nn.ReLU):
    """A plain MLP of linear layers."""
    layers = []
    for source, target in pairwise(widths):
        layers += [nn.Linear(source, target), *([nn.BatchNorm1d(target)] if norm else []), act()]
    return nn.Sequential(*layers[: -2 if norm else -1])


def gin(norm=False, **options):
    """Three graph isomorphism layers."""
    widths = (INPUT, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, OUTPUT)
    return Stack(*(gnn.GINConv(mlp(i, HIDDEN, o, norm=norm), **options) for i, o in widths), dropout=DROPOUT)


def gine(**options):
    """Three graph isomorphism layers with edge features."""
    widths = (INPUT, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, OUTPUT)
    return EdgeStack(*(gnn.GINEConv(mlp(i, HIDDEN, o), edge_dim=EDGE, **options) for i, o in widths), dropout=DROPOUT)


def gated_recurrent():
    """A gated recurrent layer between two convolutions."""
    convs = gnn.GCNConv(INPUT, HIDDEN), gnn.GatedGraphConv(HIDDEN, 2), gnn.GCNConv(HIDDEN, OUTPUT)
    return Stack(*convs, dropout=DROPOUT)


def pyg_head():
    return gnn.MLP([HIDDEN, HIDDEN, OUTPUT], norm=None)
