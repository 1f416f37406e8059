"""Models that a server must answer exactly, and graphs for them: what nodes and edges there are, and how to draw values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch_geometric.nn as gnn
from torch import Tensor, nn

from tests.serving import serving_layers as made

INPUT, HIDDEN, OUTPUT, EDGE, RELATIONS, KINDS = 8, 16, 5, 3, 3, 6
#: Draws values for so many nodes or edges.
Draw = Callable[[int, torch.Generator, torch.dtype], Tensor]
NodeName = str | None
EdgeName = tuple[str, str, str] | None


def features(width: int) -> Draw:
    """Rows of normally distributed numbers."""
    return lambda count, draw, dtype: torch.randn(count, width, generator=draw, dtype=dtype)


def numbers(below: int) -> Draw:
    """One integer per row."""
    return lambda count, draw, dtype: torch.randint(below, (count,), generator=draw)


def weights(count: int, draw: torch.Generator, dtype: torch.dtype) -> Tensor:
    """One positive number per row."""
    return torch.rand(count, generator=draw, dtype=dtype) + 0.1


def homogeneous(nodes: Mapping[NodeName, Any], edges: Mapping[EdgeName, Any]) -> dict[str, Any]:
    """Arguments by name: values of nodes, ``edge_index``, values of edges."""
    index, values = edges[None]
    return {**nodes[None], "edge_index": index, **values}


def by_type(nodes: Mapping[NodeName, Any], edges: Mapping[EdgeName, Any]) -> dict[str, Any]:
    """``x_dict`` and ``edge_index_dict``, and a dictionary for every value of edges."""
    result: dict[str, Any] = {
        "x_dict": {kind: values["x"] for kind, values in nodes.items()},
        "edge_index_dict": {kind: index for kind, (index, _) in edges.items()},
    }
    for kind, (_, values) in edges.items():
        for name, value in values.items():
            result.setdefault(f"{name}_dict", {})[kind] = value
    return result


@dataclass(frozen=True)
class Case:
    """One model and its graphs.

    Attributes:
        build: makes the model.
        nodes: by type, arguments with a row per node.
        edges: by type, arguments with a row per edge.
        arguments: makes the arguments of forward() of nodes' and edges' values.
        ulps: how many units in the last place of the largest value answers may differ in float32: functions of torch
            that give other bits at other places of a tensor, called one after another.
        example: whether tracing needs an example.
    """

    build: Callable[[], nn.Module]
    nodes: Mapping[NodeName, Mapping[str, Draw]] = field(default_factory=lambda: {None: {"x": features(INPUT)}})
    edges: Mapping[EdgeName, Mapping[str, Draw]] = field(default_factory=lambda: {None: {}})
    arguments: Callable[[Mapping[NodeName, Any], Mapping[EdgeName, Any]], dict[str, Any]] = homogeneous
    ulps: int = 0

    def model(self, seed: int = 0) -> nn.Module:
        """The model in eval mode, its weights, biases and statistics at random."""
        torch.manual_seed(seed)
        model = self.build().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1 and not isinstance(parameter, nn.UninitializedParameter):
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
            for name, buffer in model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.add_(torch.rand_like(buffer), alpha=0.5)
        return model

    def graph(
        self, nodes: int, edges: int, dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> tuple[dict[NodeName, Any], dict[EdgeName, Any]]:
        """Values of nodes by type, and ``(edge_index, values)`` by type; every type has another number of rows."""
        draw = torch.Generator().manual_seed(seed)
        counts = {kind: nodes - 7 * place for place, kind in enumerate(self.nodes)}
        nodes_of = {
            kind: {name: value(counts[kind], draw, dtype) for name, value in values.items()}
            for kind, values in self.nodes.items()
        }
        edges_of: dict[EdgeName, Any] = {}
        for place, (kind, values) in enumerate(self.edges.items()):
            count = edges - 11 * place
            ends = (kind[0], kind[2]) if kind else (None, None)
            index = torch.stack([torch.randint(counts[end], (count,), generator=draw) for end in ends])
            edges_of[kind] = index, {name: value(count, draw, dtype) for name, value in values.items()}
        return nodes_of, edges_of

    def inputs(self, nodes: int, edges: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Any]:
        """Arguments of forward() on a random graph."""
        return self.arguments(*self.graph(nodes, edges, dtype, seed))


def stack(conv: Callable[..., nn.Module], **options: Any) -> nn.Module:
    """Two convolutions with ReLU between them."""
    return made.Stacked(conv(INPUT, HIDDEN, **options), conv(HIDDEN, OUTPUT, **options))


def heads(conv: Callable[..., nn.Module], **options: Any) -> nn.Module:
    """Two convolutions with two heads each, the last one averaged."""
    return made.Stacked(conv(INPUT, HIDDEN, heads=2, **options), conv(2 * HIDDEN, OUTPUT, heads=2, concat=False, **options))


def basic(model: Callable[..., nn.Module], layers: int = 2, **options: Any) -> nn.Module:
    """One of PyG's own models."""
    return model(INPUT, HIDDEN, layers, OUTPUT, **options)


def mlp(source: int, target: int) -> nn.Module:
    """Two linear layers."""
    return nn.Sequential(nn.Linear(source, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, target))


def gin(conv: Callable[..., nn.Module], **options: Any) -> nn.Module:
    """GIN-like layers around two perceptrons."""
    return made.Stacked(conv(mlp(INPUT, HIDDEN), **options), conv(mlp(HIDDEN, OUTPUT), **options))


def pna(source: int, target: int, **options: Any) -> nn.Module:
    """One PNA layer with four towers."""
    return gnn.PNAConv(
        source, target, ["mean", "max", "min", "std"], ["identity", "amplification", "attenuation"],
        torch.tensor([2, 5, 9, 3, 1]), **options,
    )  # fmt: skip


ATTRIBUTES: dict[str, Any] = {"edges": {None: {"edge_attr": features(EDGE)}}}
WEIGHTED: dict[str, Any] = {"edges": {None: {"edge_weight": weights}}}
RELATIONAL: dict[str, Any] = {"edges": {None: {"edge_type": numbers(RELATIONS)}}}
#: Two types of nodes of different widths, and edges between and within them.
TYPES: dict[str, Any] = {
    "nodes": {"user": {"x": features(INPUT)}, "item": {"x": features(5)}},
    "edges": {("user", "buys", "item"): {}, ("item", "sold", "user"): {}, ("user", "knows", "user"): {}},
    "arguments": by_type,
}
METADATA = list(TYPES["nodes"]), list(TYPES["edges"])

CASES: dict[str, Case] = {
    # graph convolution
    "gcn": Case(partial(basic, gnn.GCN)),
    "gcn-3-residual": Case(partial(made.Residual, gnn.GCNConv)),
    "gcn-weighted": Case(partial(stack, gnn.GCNConv), **WEIGHTED),
    "gcn-improved": Case(partial(stack, gnn.GCNConv, improved=True)),
    "gcn-not-normalised": Case(partial(stack, gnn.GCNConv, normalize=False)),
    "sgc": Case(lambda: gnn.SGConv(INPUT, OUTPUT, K=2)),
    "ssg": Case(lambda: gnn.SSGConv(INPUT, OUTPUT, alpha=0.1, K=2)),
    "appnp": Case(lambda: made.Stacked(nn.Linear(INPUT, OUTPUT), gnn.APPNP(2, 0.1))),
    "arma": Case(lambda: made.Stacked(gnn.ARMAConv(INPUT, HIDDEN, 2, 2), gnn.ARMAConv(HIDDEN, OUTPUT))),
    "tag": Case(partial(stack, gnn.TAGConv, K=2)),
    "cheb": Case(lambda: made.Stacked(gnn.ChebConv(INPUT, HIDDEN, 3), gnn.ChebConv(HIDDEN, OUTPUT, 2))),
    "cheb-weighted": Case(lambda: made.Stacked(gnn.ChebConv(INPUT, HIDDEN, 3), gnn.ChebConv(HIDDEN, OUTPUT, 2)), **WEIGHTED),
    "cluster": Case(partial(stack, gnn.ClusterGCNConv)),
    "mixhop": Case(lambda: made.Stacked(gnn.MixHopConv(INPUT, HIDDEN, [0, 1, 2]), gnn.MixHopConv(3 * HIDDEN, 2, [0, 1]))),
    "gcn2": Case(made.InitialResidual),
    "antisymmetric": Case(lambda: made.Stacked(gnn.AntiSymmetricConv(INPUT), nn.Linear(INPUT, OUTPUT))),
    # sums, means, extrema
    "sage-mean": Case(partial(basic, gnn.GraphSAGE, 3)),
    "sage-max": Case(partial(stack, gnn.SAGEConv, aggr="max")),
    "sage-sum-project": Case(partial(stack, gnn.SAGEConv, aggr="add", project=True)),
    "sage-two-aggregations": Case(partial(stack, gnn.SAGEConv, aggr=["mean", "max"])),
    "sage-unit-length": Case(partial(stack, gnn.SAGEConv, normalize=True)),
    "gin": Case(partial(gin, gnn.GINConv, train_eps=True)),
    "gine": Case(partial(gin, gnn.GINEConv, edge_dim=EDGE), **ATTRIBUTES),
    "graph": Case(partial(stack, gnn.GraphConv), **WEIGHTED),
    "le": Case(partial(stack, gnn.LEConv), **WEIGHTED),
    "pna": Case(lambda: made.Stacked(pna(INPUT, HIDDEN), pna(HIDDEN, OUTPUT))),
    "pna-towers-edges": Case(
        lambda: made.Stacked(pna(INPUT, HIDDEN, towers=4, edge_dim=EDGE), pna(HIDDEN, 4, towers=2, edge_dim=EDGE)), **ATTRIBUTES
    ),
    "mf": Case(lambda: made.Stacked(gnn.MFConv(INPUT, HIDDEN, 4), gnn.MFConv(HIDDEN, OUTPUT, 4))),
    "edge-conv": Case(lambda: made.Stacked(gnn.EdgeConv(mlp(2 * INPUT, HIDDEN)), gnn.EdgeConv(mlp(2 * HIDDEN, OUTPUT)))),
    "nn-conv": Case(lambda: gnn.NNConv(INPUT, OUTPUT, nn.Linear(EDGE, INPUT * OUTPUT)), **ATTRIBUTES),
    "pdn": Case(lambda: made.Stacked(gnn.PDNConv(INPUT, HIDDEN, EDGE, 4), gnn.PDNConv(HIDDEN, OUTPUT, EDGE, 4)), ulps=64, **ATTRIBUTES),
    "directed": Case(lambda: made.Stacked(gnn.DirGNNConv(gnn.SAGEConv(INPUT, HIDDEN)), gnn.DirGNNConv(gnn.GCNConv(HIDDEN, OUTPUT)))),
    "eg": Case(lambda: made.Stacked(gnn.EGConv(INPUT, HIDDEN), gnn.EGConv(HIDDEN, 8))),
    # attention and gates
    "gat": Case(partial(heads, gnn.GATConv)),
    "gat-edges-residual": Case(partial(heads, gnn.GATConv, edge_dim=EDGE, residual=True), **ATTRIBUTES),
    "gat-max": Case(partial(basic, gnn.GAT, 3, heads=2, jk="max")),
    "gatv2": Case(partial(heads, gnn.GATv2Conv)),
    "gatv2-edges": Case(partial(heads, gnn.GATv2Conv, edge_dim=EDGE), **ATTRIBUTES),
    "transformer": Case(partial(heads, gnn.TransformerConv), ulps=0),
    "transformer-edges-beta": Case(partial(heads, gnn.TransformerConv, edge_dim=EDGE, beta=True), ulps=64, **ATTRIBUTES),
    "supergat": Case(partial(heads, gnn.SuperGATConv, attention_type="SD"), ulps=64),
    "agnn": Case(lambda: made.Stacked(nn.Linear(INPUT, OUTPUT), gnn.AGNNConv())),
    "fa": Case(made.Frequencies),
    "res-gated": Case(partial(stack, gnn.ResGatedGraphConv), ulps=64),
    "film": Case(partial(stack, gnn.FiLMConv)),
    "gen": Case(partial(stack, gnn.GENConv)),
    "gated-graph": Case(lambda: made.Stacked(gnn.GatedGraphConv(HIDDEN, 2), nn.Linear(HIDDEN, OUTPUT)), ulps=256),
    "cg": Case(lambda: made.Stacked(gnn.CGConv(INPUT, EDGE), gnn.CGConv(INPUT, EDGE)), ulps=64, **ATTRIBUTES),
    "general": Case(partial(stack, gnn.GeneralConv, attention=True, heads=2)),
    "gps-without-attention": Case(made.local_gps),
    "feast": Case(partial(stack, gnn.FeaStConv, heads=2)),
    # relations
    "rgcn": Case(partial(stack, gnn.RGCNConv, num_relations=RELATIONS), **RELATIONAL),
    "rgcn-bases": Case(partial(stack, gnn.RGCNConv, num_relations=RELATIONS, num_bases=2), **RELATIONAL),
    "rgcn-fast": Case(partial(stack, gnn.FastRGCNConv, num_relations=RELATIONS), **RELATIONAL),
    "rgat": Case(partial(stack, gnn.RGATConv, num_relations=RELATIONS), **RELATIONAL),
    # jumps, norms, heads
    "jk-cat": Case(partial(basic, gnn.GraphSAGE, 3, jk="cat")),
    "jk-lstm": Case(partial(basic, gnn.GCN, 3, jk="lstm"), ulps=256),
    "layer-norm": Case(partial(basic, gnn.GCN, 3, norm="layer_norm", norm_kwargs={"mode": "node"})),
    "batch-norm": Case(partial(basic, gnn.GIN, 3, norm="batch_norm")),
    "elu": Case(partial(basic, gnn.GAT, heads=2, act="elu"), ulps=16),
    "embedded": Case(made.Embedded, nodes={None: {"x": features(INPUT), "z": numbers(KINDS)}}),
    "two-outputs": Case(made.TwoOutputs),
    "dictionary": Case(made.NamedOutputs),
    "no-edges-read": Case(lambda: made.NoEdges()),
    "some-columns": Case(made.SomeColumns),
    # message passing of one's own
    "against-the-edges": Case(lambda: made.Stacked(made.Spread(INPUT, HIDDEN, flow="target_to_source"), made.Spread(HIDDEN, OUTPUT))),
    "spread-max": Case(lambda: made.Stacked(made.Spread(INPUT, HIDDEN, aggr="max"), made.Spread(HIDDEN, OUTPUT, aggr="mean"))),
    "gate-on-edges": Case(lambda: made.Gate(INPUT, EDGE, OUTPUT), ulps=64, **ATTRIBUTES),
    "degrees-as-features": Case(made.Degrees),
    "edges-to-edges": Case(made.EdgeState, **ATTRIBUTES),
    "mean-of-whole-structure": Case(made.MeanDegree),
    "softmax-by-hand": Case(made.Scores),
    # several types
    "to-hetero": Case(lambda: gnn.to_hetero(made.Stacked(gnn.SAGEConv((-1, -1), HIDDEN), gnn.SAGEConv((-1, -1), OUTPUT)), METADATA), **TYPES),
    "to-hetero-gat": Case(
        lambda: gnn.to_hetero(
            made.Stacked(*[gnn.GATConv((-1, -1), width, heads=2, concat=False, add_self_loops=False) for width in (HIDDEN, OUTPUT)]), METADATA
        ), **TYPES,
    ),
    "hetero-conv": Case(made.HeteroConvs, **TYPES),
    "hetero-conv-attributes": Case(made.HeteroAttributes, **TYPES | {"edges": {**TYPES["edges"], ("item", "near", "item"): {"edge_attr": features(EDGE)}}}),
    "hgt": Case(lambda: made.Typed(gnn.HGTConv({"user": INPUT, "item": 5}, 8, METADATA, 2)), ulps=64, **TYPES),
    "han": Case(lambda: made.Typed(gnn.HANConv({"user": INPUT, "item": 5}, 8, METADATA, 2)), ulps=64, **TYPES),
}  # fmt: skip
