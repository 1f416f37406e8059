"""A graph, models of it, and losses."""

import torch
import torch.nn.functional as F
from torch_geometric.data import Data

import upscale_fx
from upscale_fx.models import SAGE

DRAW = torch.Generator().manual_seed(0)
X, EDGES, Y = (
    torch.randn(40, 12, generator=DRAW),
    torch.randint(40, (2, 120), generator=DRAW),
    torch.randint(5, (40,), generator=DRAW),
)
DATA = Data(x=X, edge_index=EDGES, y=Y)
quiet = {"progress": False}


def dense(family=SAGE, **options):
    return family(12, 32, 5, **options)


def pruned(model=None, amount=0.75):
    return upscale_fx.prune(model or dense(), amount)


def cross_entropy(output, batch):
    return F.cross_entropy(output, batch.y)


def loss_of(model):
    model.eval()
    with torch.no_grad():
        return float(F.cross_entropy(model(X, EDGES), Y))
