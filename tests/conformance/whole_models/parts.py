"""What several whole models are made of."""

import torch
from torch import nn
from torch_geometric.nn import MessagePassing

from tests.conformance.whole_models.row import Sample, Whole


class Propagate(MessagePassing):
    """Weighted sum of neighbours, without weights of its own."""

    def __init__(self):
        super().__init__(aggr="add")

    def forward(self, x, edge_index, norm):
        return self.propagate(edge_index, x=x, norm=norm)

    def message(self, x_j, norm):
        return norm.view(-1, 1) * x_j


def initialised(build, call="x_dict edge_index_dict"):
    """A model of lazy widths that has been called once."""

    def made():
        model = build().double()
        args, kwargs = Whole("", "", nn.Identity, call).arguments(Sample())
        with torch.no_grad():
            model.eval()(*args, **kwargs)
        return model

    return made
