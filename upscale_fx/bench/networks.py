"""The eight networks of the benchmark, all made of PyTorch Geometric's own layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch_geometric.nn.models import GAT, GCN, GIN, PNA, GraphSAGE
from torch_geometric.utils import degree

from upscale_fx.bench.graphs import Graph
from upscale_fx.models.classifiers import GraphTransformer

HEADS = 4
DROPOUT = 0.5


def _transformer(dims: Sequence[int], _: Tensor) -> nn.Module:
    return GraphTransformer(dims[0], dims[1], dims[-1], num_layers=len(dims) - 1, dropout=DROPOUT, heads=HEADS)


def _pna(dims: Sequence[int], in_degrees: Tensor) -> nn.Module:
    """With the aggregators and scalers of the paper (Corso et al., NeurIPS 2020, equation 8)."""
    aggregators, scalers = ["mean", "min", "max", "std"], ["identity", "amplification", "attenuation"]
    model: nn.Module = PNA(**_basic(dims), aggregators=aggregators, scalers=scalers, deg=torch.bincount(in_degrees))
    return model


def _basic(dims: Sequence[int]) -> dict[str, float]:
    """Arguments of PyG's ready-made models."""
    widths = {"in_channels": dims[0], "hidden_channels": dims[1], "out_channels": dims[-1]}
    return {**widths, "num_layers": len(dims) - 1, "dropout": DROPOUT}


#: By name, functions that make a network from widths and the in-degrees ``[N]`` of the nodes.
NETWORKS: dict[str, Callable[[Sequence[int], Tensor], nn.Module]] = {
    "GCN": lambda dims, _: GCN(**_basic(dims)),
    "SAGE": lambda dims, _: GraphSAGE(**_basic(dims)),
    "GAT": lambda dims, _: GAT(**_basic(dims), heads=HEADS),
    "GATv2": lambda dims, _: GAT(**_basic(dims), heads=HEADS, v2=True),
    "Transformer": _transformer,
    "GIN": lambda dims, _: GIN(**_basic(dims)),
    "PNA": _pna,
    "JK-Net": lambda dims, _: GCN(**_basic(dims), jk="cat"),
}


def check_dims(dims: Sequence[int]) -> None:
    """Raise a ValueError if the networks cannot have these widths."""
    if len(dims) < 3:
        raise ValueError("a network needs at least three widths: input, hidden, output")
    if len(set(dims[1:-1])) != 1:
        raise ValueError(f"hidden widths must be equal, not {' '.join(map(str, dims[1:-1]))}")
    if dims[1] % HEADS:
        raise ValueError(f"the hidden width {dims[1]} does not divide into {HEADS} heads")


def make_network(name: str, graph: Graph, seed: int) -> nn.Module:
    """A network for a graph, always the same for the same seed, in ``eval()``."""
    in_degrees = degree(graph.edge_index[1], graph.num_nodes, dtype=torch.long).cpu()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _roughen(NETWORKS[name](graph.dims, in_degrees))
    return model.to(graph.x.device).eval()


@torch.no_grad()
def _roughen(model: nn.Module) -> nn.Module:
    """Make biases nonzero, so that a misplaced one changes the output."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def output_layer(name: str, model: nn.Module) -> nn.Module:
    """The layer that computes the logits; it keeps all its outputs."""
    layers: nn.Module = model.lin if name == "JK-Net" else model.convs[-1]  # type: ignore[assignment, index]
    return layers
