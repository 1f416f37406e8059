"""Layers as users write them, in the ways the tutorial on message passing has them."""

import torch
from torch_geometric.nn.aggr import DegreeScalerAggregation, MaxAggregation, MultiAggregation, SoftmaxAggregation

from tests.conformance.case import Case
from tests.conformance.user_layers import (
    Attention,
    ConcatAttention,
    DotAttention,
    EdgeFeatures,
    Filtered,
    Fused,
    Gated,
    OwnAggregate,
    Stacked,
    TutorialEdgeConv,
    TutorialGCN,
    TwoAggregates,
    Weighted,
)
from tests.conformance.user_relations import (
    Bipartite,
    Chosen,
    HeadsFromRows,
    Relational,
    RelationalEinsum,
    ThreeDimensional,
    TypedEdges,
)

WEIGHTED, ATTRIBUTED = "x edge_index edge_weight", "x edge_index edge_attr"
TYPED = "x edge_index edge_type"


def unexplained(layer):
    layer.explain = False
    return layer


def degree_scaler():
    histogram = torch.tensor([1, 3, 5, 4, 2])
    return DegreeScalerAggregation(["mean", "max"], ["identity", "amplification"], histogram)


CASES = [
    Case("TutorialGCN", "plain", TutorialGCN),
    Case("TutorialGCN", "flow", lambda: TutorialGCN(flow="target_to_source")),
    Case("TutorialEdgeConv", "plain", TutorialEdgeConv),
    *[Case("TutorialEdgeConv", aggr, lambda aggr=aggr: TutorialEdgeConv(aggr)) for aggr in ("min", "mul")],
    Case("TutorialEdgeConv", "median", lambda: TutorialEdgeConv("median"), "x edge_index=looped"),
    Case("TutorialEdgeConv", "explain False", lambda: unexplained(TutorialEdgeConv())),
    Case("EdgeFeatures", "plain", EdgeFeatures, ATTRIBUTED),
    Case("EdgeFeatures", "flow", lambda: EdgeFeatures(flow="target_to_source"), ATTRIBUTED),
    Case("Attention", "edge_updater", Attention),
    Case("ConcatAttention", "plain", ConcatAttention),
    Case("DotAttention", "einsum chunk", DotAttention),
    Case("OwnAggregate", "mean", OwnAggregate),
    Case("OwnAggregate", "max", lambda: OwnAggregate("max")),
    Case("TwoAggregates", "cat", TwoAggregates),
    Case("Fused", "edge_index", Fused),
    Case("Fused", "static", Fused, "x=static edge_index"),
    Case("Weighted", "matmul", Weighted, WEIGHTED),
    *[Case("Weighted", aggr, lambda aggr=aggr: Weighted(aggr), WEIGHTED) for aggr in ("max", "min", "mul")],
    Case("Weighted", "list", lambda: Weighted(["mean", "std", "max"], 18), WEIGHTED),
    Case("Weighted", "modules", lambda: Weighted([SoftmaxAggregation(learn=True), MaxAggregation()], 12), WEIGHTED),
    Case("Weighted", "multi", lambda: Weighted(MultiAggregation(["mean", "max"], mode="max")), WEIGHTED),
    Case("Weighted", "scaler", lambda: Weighted(degree_scaler(), 24), WEIGHTED),
    Case("Weighted", "decomposed", lambda: Weighted(decomposed_layers=2), WEIGHTED),
    Case("Filtered", "edge_attr", Filtered, ATTRIBUTED),
    Case("Filtered", "max", lambda: Filtered("max"), ATTRIBUTED),
    Case("Gated", "chunk", Gated),
    Case("Stacked", "stack permute", Stacked),
    Case("Relational", "bmm", Relational, TYPED),
    Case("RelationalEinsum", "einsum", RelationalEinsum, TYPED),
    Case("Chosen", "where", Chosen, TYPED),
    Case("TypedEdges", "embedding", TypedEdges, TYPED),
    Case("TypedEdges", "embedding cat", lambda: TypedEdges("cat"), TYPED),
    Case(
        "ThreeDimensional",
        "node_dim 0",
        ThreeDimensional,
        lambda g: (g.features(g.nodes, 4, 8), g.edge_index),
    ),
    Case("Bipartite", "size", Bipartite, "x=mixed edge_index=bipartite"),
    Case("HeadsFromRows", "view", HeadsFromRows),
]
