"""Convolutions, AGNN to FiLM.

DynamicEdgeConv needs pyg-lib and is left out: EdgeConv is the same layer on a given graph.
"""

import torch
import torch_geometric.nn as gnn
from torch import nn

from tests.conformance.case import Case, initialised
from tests.conformance.parts import mlp

WEIGHTED = "x edge_index edge_weight"
BIPARTITE = "x=pair edge_index=bipartite"
MIXED = "x=mixed edge_index=bipartite"
STATIC = "x=static edge_index"
INITIAL = "x x_0 edge_index"
TYPED = "x edge_index edge_type"
LAYERS = "x=history edge_index"


def by_position(g):
    """The arguments by position, where a lazy layer looks for them."""
    return g.x, g.edge_index


def filters(g):
    """Arguments of a ChebConv on several graphs, each with its own largest eigenvalue."""
    return {"x": g.x, "edge_index": g.edge_index, "batch": g.batch, "lambda_max": g.positive(g.graphs) + 1.5}


CASES = [
    # AGNN and APPNP have no weights over channels.
    Case("AGNNConv", "plain", gnn.AGNNConv, expect="nothing"),
    Case("AGNNConv", "no self loops", lambda: gnn.AGNNConv(add_self_loops=False), expect="nothing"),
    Case("AGNNConv", "fixed beta", lambda: gnn.AGNNConv(requires_grad=False), expect="nothing"),
    Case("AGNNConv", "target to source", lambda: gnn.AGNNConv(flow="target_to_source"), expect="nothing"),
    Case("AntiSymmetricConv", "plain", lambda: gnn.AntiSymmetricConv(8)),
    Case("AntiSymmetricConv", "three iterations", lambda: gnn.AntiSymmetricConv(8, num_iters=3)),
    Case("AntiSymmetricConv", "phi, relu", lambda: gnn.AntiSymmetricConv(8, gnn.GraphConv(8, 8), act="relu")),
    Case("AntiSymmetricConv", "no act, no bias", lambda: gnn.AntiSymmetricConv(8, act=None, bias=False)),
    Case("AntiSymmetricConv", "leaky relu", lambda: gnn.AntiSymmetricConv(8, act="leaky_relu", gamma=0.5, epsilon=1.0)),
    Case(
        "AntiSymmetricConv",
        "edge_weight in args",
        lambda: gnn.AntiSymmetricConv(8),
        lambda g: (g.x, g.edge_index, g.edge_weight),
    ),
    Case("AntiSymmetricConv", "edge_weight in kwargs", lambda: gnn.AntiSymmetricConv(8), WEIGHTED),
    Case("APPNP", "plain", lambda: gnn.APPNP(3, 0.1), expect="nothing"),
    Case("APPNP", "edge_weight", lambda: gnn.APPNP(2, 0.2, dropout=0.5), WEIGHTED, expect="nothing"),
    Case("APPNP", "not normalised", lambda: gnn.APPNP(2, 0.2, normalize=False), WEIGHTED, expect="nothing"),
    Case("APPNP", "no self loops", lambda: gnn.APPNP(2, 0.2, add_self_loops=False), expect="nothing"),
    Case("APPNP", "static graph", lambda: gnn.APPNP(2, 0.2), STATIC, expect="nothing"),
    Case("ARMAConv", "plain", lambda: gnn.ARMAConv(8, 6)),
    Case("ARMAConv", "edge_weight", lambda: gnn.ARMAConv(8, 6), WEIGHTED),
    Case("ARMAConv", "stacks", lambda: gnn.ARMAConv(8, 6, num_stacks=3, bias=False)),
    Case("ARMAConv", "layers", lambda: gnn.ARMAConv(8, 6, num_layers=3)),
    Case("ARMAConv", "stacks and layers", lambda: gnn.ARMAConv(8, 6, 2, 2, dropout=0.25)),
    Case("ARMAConv", "shared weights", lambda: gnn.ARMAConv(8, 6, 2, 3, shared_weights=True)),
    Case("ARMAConv", "no act", lambda: gnn.ARMAConv(8, 6, act=None)),
    Case("ARMAConv", "tanh", lambda: gnn.ARMAConv(8, 6, num_layers=2, act=nn.Tanh())),
    Case("ARMAConv", "target to source", lambda: gnn.ARMAConv(8, 6, flow="target_to_source")),
    Case("ARMAConv", "lazy", lambda: initialised(gnn.ARMAConv(-1, 6, 2, 2), by_position)),
    Case("CGConv", "plain", lambda: gnn.CGConv(8)),
    Case("CGConv", "edge_attr", lambda: gnn.CGConv(8, dim=3), "x edge_index edge_attr"),
    Case("CGConv", "bipartite", lambda: gnn.CGConv((8, 8)), BIPARTITE),
    Case("CGConv", "bipartite edge_attr", lambda: gnn.CGConv((8, 5), dim=3), MIXED + " edge_attr"),
    Case("CGConv", "batch norm", lambda: gnn.CGConv(8, batch_norm=True)),
    Case("CGConv", "max, no bias", lambda: gnn.CGConv(8, aggr="max", bias=False)),
    Case("CGConv", "mean", lambda: gnn.CGConv(8, aggr="mean")),
    Case("ChebConv", "K 1", lambda: gnn.ChebConv(8, 6, 1)),
    Case("ChebConv", "K 3", lambda: gnn.ChebConv(8, 6, 3)),
    Case("ChebConv", "K 2, rw", lambda: gnn.ChebConv(8, 6, 2, normalization="rw")),
    Case("ChebConv", "not normalised, no bias", lambda: gnn.ChebConv(8, 6, 3, normalization=None, bias=False)),
    Case("ChebConv", "edge_weight", lambda: gnn.ChebConv(8, 6, 3), WEIGHTED),
    Case(
        "ChebConv",
        "lambda_max",
        lambda: gnn.ChebConv(8, 6, 3),
        lambda g: {"x": g.x, "edge_index": g.edge_index, "lambda_max": torch.tensor(1.75, dtype=torch.float64)},
    ),
    Case("ChebConv", "batch, lambda_max", lambda: gnn.ChebConv(8, 6, 3, normalization=None), filters),
    Case("ChebConv", "lazy", lambda: initialised(gnn.ChebConv(-1, 6, 2))),
    Case("ChebConv", "static graph", lambda: gnn.ChebConv(8, 6, 3), STATIC),
    Case("ClusterGCNConv", "plain", lambda: gnn.ClusterGCNConv(8, 6)),
    Case("ClusterGCNConv", "diag_lambda", lambda: gnn.ClusterGCNConv(8, 6, diag_lambda=0.5)),
    Case("ClusterGCNConv", "max, no bias", lambda: gnn.ClusterGCNConv(8, 6, bias=False, aggr="max")),
    Case("ClusterGCNConv", "target to source", lambda: gnn.ClusterGCNConv(8, 6, flow="target_to_source")),
    Case("ClusterGCNConv", "lazy", lambda: initialised(gnn.ClusterGCNConv(-1, 6))),
    Case("ClusterGCNConv", "static graph", lambda: gnn.ClusterGCNConv(8, 6), STATIC),
    Case("DirGNNConv", "GCN", lambda: gnn.DirGNNConv(gnn.GCNConv(8, 6))),
    Case("DirGNNConv", "SAGE, alpha", lambda: gnn.DirGNNConv(gnn.SAGEConv(8, 6), alpha=0.2)),
    Case("DirGNNConv", "GAT, no root", lambda: gnn.DirGNNConv(gnn.GATConv(8, 6), root_weight=False)),
    Case("DNAConv", "plain", lambda: gnn.DNAConv(8), LAYERS),
    Case("DNAConv", "heads", lambda: gnn.DNAConv(8, heads=2), LAYERS),
    Case("DNAConv", "groups", lambda: gnn.DNAConv(8, groups=2), LAYERS),
    Case("DNAConv", "heads and groups", lambda: gnn.DNAConv(8, heads=4, groups=2, dropout=0.5), LAYERS),
    Case("DNAConv", "no bias", lambda: gnn.DNAConv(8, heads=2, bias=False), LAYERS),
    Case("DNAConv", "edge_weight", lambda: gnn.DNAConv(8, add_self_loops=False), LAYERS + " edge_weight"),
    Case("DNAConv", "not normalised", lambda: gnn.DNAConv(8, heads=2, normalize=False), LAYERS + " edge_weight"),
    Case("EdgeConv", "plain", lambda: gnn.EdgeConv(mlp(16, 12, 6))),
    Case("EdgeConv", "linear, mean", lambda: gnn.EdgeConv(nn.Linear(16, 6), aggr="mean")),
    Case("EdgeConv", "add", lambda: gnn.EdgeConv(mlp(16, 12, 6), aggr="add")),
    Case("EdgeConv", "several aggregations", lambda: gnn.EdgeConv(mlp(16, 12, 6), aggr=["mean", "max", "std"])),
    Case("EdgeConv", "PyG MLP", lambda: gnn.EdgeConv(gnn.MLP([16, 12, 6]))),
    Case("EdgeConv", "bipartite", lambda: gnn.EdgeConv(mlp(16, 12, 6)), BIPARTITE),
    Case("EGConv", "plain", lambda: gnn.EGConv(8, 16)),
    Case("EGConv", "heads and bases", lambda: gnn.EGConv(8, 6, num_heads=2, num_bases=3)),
    Case("EGConv", "one head", lambda: gnn.EGConv(8, 6, ["mean"], num_heads=1, num_bases=2)),
    Case("EGConv", "sum, max", lambda: gnn.EGConv(8, 12, ["sum", "max"], num_heads=3)),
    Case(
        "EGConv",
        "all aggregators",
        lambda: gnn.EGConv(8, 8, ["sum", "mean", "symnorm", "min", "max", "var", "std"], num_heads=2, num_bases=2),
    ),
    Case("EGConv", "no self loops", lambda: gnn.EGConv(8, 8, ["mean", "std"], num_heads=4, add_self_loops=False)),
    Case("EGConv", "symnorm, no self loops", lambda: gnn.EGConv(8, 8, num_heads=4, add_self_loops=False)),
    Case("EGConv", "no bias", lambda: gnn.EGConv(8, 8, num_heads=4, bias=False)),
    Case("EGConv", "lazy", lambda: initialised(gnn.EGConv(-1, 8, num_heads=4))),
    Case("FAConv", "plain", lambda: gnn.FAConv(8), INITIAL),
    Case("FAConv", "eps", lambda: gnn.FAConv(8, eps=0.0, dropout=0.5), INITIAL),
    Case("FAConv", "no self loops", lambda: gnn.FAConv(8, add_self_loops=False), INITIAL),
    Case("FAConv", "not normalised", lambda: gnn.FAConv(8, normalize=False), INITIAL + " edge_weight"),
    Case("FAConv", "attention weights", lambda: gnn.FAConv(8), INITIAL + " return_attention_weights=yes"),
    Case("FAConv", "lazy", lambda: initialised(gnn.FAConv(-1), INITIAL), INITIAL),
    Case("FastRGCNConv", "defaults", lambda: gnn.FastRGCNConv(8, 6, 3), TYPED),
    Case("FastRGCNConv", "bases", lambda: gnn.FastRGCNConv(8, 6, 3, num_bases=2), TYPED),
    Case("FastRGCNConv", "blocks", lambda: gnn.FastRGCNConv(8, 6, 3, num_blocks=2), TYPED),
    Case("FastRGCNConv", "sum", lambda: gnn.FastRGCNConv(8, 6, 3, aggr="sum"), TYPED),
    Case("FastRGCNConv", "no root, no bias", lambda: gnn.FastRGCNConv(8, 6, 3, root_weight=False, bias=False), TYPED),
    Case("FastRGCNConv", "bipartite defaults", lambda: gnn.FastRGCNConv((8, 5), 6, 3), MIXED + " edge_type"),
    Case("FeaStConv", "plain", lambda: gnn.FeaStConv(8, 6)),
    Case("FeaStConv", "heads", lambda: gnn.FeaStConv(8, 6, heads=3)),
    Case("FeaStConv", "bipartite", lambda: gnn.FeaStConv(8, 6, heads=2, add_self_loops=False), BIPARTITE),
    Case("FeaStConv", "add, no bias", lambda: gnn.FeaStConv(8, 6, heads=2, bias=False, aggr="add")),
    Case("FeaStConv", "lazy", lambda: initialised(gnn.FeaStConv(-1, 6, heads=2))),
    Case("FiLMConv", "plain", lambda: gnn.FiLMConv(8, 6)),
    Case("FiLMConv", "relations", lambda: gnn.FiLMConv(8, 6, num_relations=3), TYPED),
    Case("FiLMConv", "network", lambda: gnn.FiLMConv(8, 6, nn=mlp(8, 10, 12))),
    Case("FiLMConv", "no act, sum", lambda: gnn.FiLMConv(8, 6, act=None, aggr="sum")),
    Case("FiLMConv", "max, relations", lambda: gnn.FiLMConv(8, 6, 3, act=nn.Tanh(), aggr="max"), TYPED),
    Case("FiLMConv", "bipartite", lambda: gnn.FiLMConv((8, 5), 6), MIXED),
    Case("FiLMConv", "bipartite, relations", lambda: gnn.FiLMConv((8, 5), 6, 3), MIXED + " edge_type"),
    Case("FiLMConv", "lazy", lambda: initialised(gnn.FiLMConv(-1, 6))),
]
