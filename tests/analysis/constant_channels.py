"""Models with rows of weights that are zero, and graphs to compare them on."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

IN, WIDTH, OUT = 5, 8, 3


def graph(nodes, edges, seed=0):
    """A graph in which the last node has no edge."""
    draw = torch.Generator().manual_seed(seed)
    ends = torch.randint(max(nodes - 1, 1), (2, edges), generator=draw)
    return torch.randn(nodes, IN, generator=draw, dtype=torch.float64), ends


GRAPHS = (graph(9, 20), graph(40, 90), graph(1, 0))


def ready(model):
    """In float64 and eval mode, with biases and statistics that fresh layers do not have."""
    model = model.double().eval()
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith(("bias", "running_mean")):
                value.normal_()
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2)
    return model


def prune_rows(model, *names, amount=0.5):
    """Set the least rows of these weights to zero; biases stay."""
    for name in names:
        prune.ln_structured(model.get_submodule(name), "weight", amount, n=2, dim=0)
    return model


def same(model, other, tolerance=1e-10, graphs=GRAPHS):
    """Whether two models compute the same on all graphs."""
    arguments = 1 if "edge_index" not in model.forward.__code__.co_varnames else 2
    for one in graphs:
        torch.testing.assert_close(
            other(*one[:arguments]), model(*one[:arguments]), rtol=tolerance, atol=tolerance, equal_nan=True
        )
    return True


def shape(gm, name):
    return tuple(gm.get_parameter(name).shape)


class Net(nn.Module):
    """A layer, an activation and what else stands between, and a head."""

    def __init__(self, layer, between=F.relu, head=None, width=WIDTH):
        super().__init__()
        self.layer, self.head = layer, head or nn.Linear(width, OUT)
        self.between = between

    def forward(self, x, edge_index):
        h = self.layer(x) if isinstance(self.layer, nn.Linear) else self.layer(x, edge_index)
        return self.head(self.between(h))
