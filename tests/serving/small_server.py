"""A small graph and models for the tests of servers."""

import torch
from torch_geometric.nn.models import GCN, GraphSAGE

import upscale_fx

NODES, WIDTH = 90, 8


def graph(seed=0, nodes=NODES, edges=400):
    """Features and edges; some are self loops, some parallel."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(nodes, WIDTH, generator=draw), torch.randint(0, nodes, (2, edges), generator=draw)


def compiled(kind="gcn", amount=0.5, layers=2, **options):
    """A pruned model; ``kind`` is gcn or sage."""
    torch.manual_seed(0)
    model = {"gcn": GCN, "sage": GraphSAGE}[kind](WIDTH, 16, layers, 4, **options).eval()
    return upscale_fx.prune(model, amount, example_inputs=graph())


def whole(compiled, server):
    """What the compiled model gives for the whole graph of a server."""
    with torch.no_grad():
        return compiled(*server.inputs())
