"""The grid of torch_geometric.nn.models."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch_geometric.nn.models import GAT, GCN, GIN, PNA, GraphSAGE

from tests.zoo.entry import HIDDEN, INPUT, OUTPUT, Entry

DEGREES = torch.tensor([2, 4, 3, 2, 1])
BASIC: dict[str, Callable[..., nn.Module]] = {
    "GCN": GCN,
    "GraphSAGE": GraphSAGE,
    "GAT": partial(GAT, heads=4),
    "GATv2": partial(GAT, heads=2, v2=True),
    "GIN": GIN,
    "PNA": partial(
        PNA, aggregators=["mean", "max", "std"], scalers=["identity", "amplification", "attenuation"], deg=DEGREES
    ),
}
NORMS = (None, "batch_norm", "layer_norm", "graph_norm", "instance_norm", "pair_norm")


def basic(family, jk, norm):
    return BASIC[family](INPUT, HIDDEN, 3, OUTPUT, dropout=0.2, act="elu" if jk == "cat" else "relu", jk=jk, norm=norm)


def basic_grid() -> dict[str, Entry]:
    """Every family with every jk and, rotating, every norm; entries with a norm also know the batch."""
    grid = {}
    for row, family in enumerate(BASIC):
        for column, jk in enumerate((None, "last", "cat", "max", "lstm")):
            norm = NORMS[(row + column) % len(NORMS)]
            batched = norm in ("layer_norm", "graph_norm", "instance_norm", "pair_norm")
            arguments = "x edge_index batch" if batched else "x edge_index"
            entry = Entry(partial(basic, family, jk, norm), arguments, needs_example=batched)
            grid[f"basic-{family}-{jk}-{norm}"] = entry
    return grid
