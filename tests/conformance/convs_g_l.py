"""Convolutions, GAT to LG.

GravNetConv needs pyg-lib and is left out, and so is GENConv with instance norm, which warns on every call.
"""

import torch
import torch_geometric.nn as gnn
from torch import nn

from tests.conformance.case import Case, initialised
from tests.conformance.parts import METADATA, mlp

WEIGHTED = "x edge_index edge_weight"
EDGES = "x edge_index edge_attr"
BIPARTITE = "x=pair edge_index=bipartite"
MIXED = "x=mixed edge_index=bipartite"
LONE = "x=lone edge_index=bipartite size"
STATIC = "x=static edge_index"
INITIAL = "x x_0 edge_index"
ATTENTION = " return_attention_weights=yes"
HYPER = "x hyperedge_index=bipartite"
HEAT = "x edge_index node_type edge_type edge_attr"
HETERO = "x_dict edge_index_dict"
NEAR, TO, BACK = METADATA[1]
BOTH = {"a": 8, "b": 12}


def attention(g):
    """Arguments of a hypergraph convolution with attention."""
    return {"x": g.x, "hyperedge_index": g.bipartite, "hyperedge_attr": g.x_dst, "num_edges": g.targets}


def hetero(aggr="sum", width=6):
    """A layer for each relation of a heterogeneous graph."""
    convs = {NEAR: gnn.GCNConv(8, width), TO: gnn.SAGEConv((8, 12), width)}
    return gnn.HeteroConv({**convs, BACK: gnn.GATConv((12, 8), width, add_self_loops=False)}, aggr)


def by_position(g):
    """Arguments of a HeteroConv."""
    return g.x_dict, g.edge_index_dict


def with_weights(g):
    """Arguments of a HeteroConv that hands on edge weights."""
    edges = g.edge_index_dict
    return {"x_dict": g.x_dict, "edge_index_dict": edges, "edge_weight_dict": dict.fromkeys(edges, g.edge_weight)}


class TwoHetero(nn.Module):
    """Two heterogeneous layers with ReLU between them, as the documentation of HeteroConv stacks them."""

    def __init__(self):
        super().__init__()
        self.first, self.lin = hetero(), nn.Linear(6, 4)

    def forward(self, x_dict, edge_index_dict):
        x_dict = {key: x.relu() for key, x in self.first(x_dict, edge_index_dict).items()}
        return {key: self.lin(x) for key, x in x_dict.items()}


CASES = [
    Case("GATConv", "plain", lambda: gnn.GATConv(8, 6)),
    Case("GATConv", "heads", lambda: gnn.GATConv(8, 6, heads=3, negative_slope=0.1, dropout=0.5)),
    Case("GATConv", "mean of heads", lambda: gnn.GATConv(8, 6, heads=3, concat=False)),
    Case("GATConv", "residual", lambda: gnn.GATConv(8, 6, heads=2, residual=True)),
    Case("GATConv", "residual, mean of heads", lambda: gnn.GATConv(8, 6, heads=2, concat=False, residual=True)),
    Case("GATConv", "no self loops, no bias", lambda: gnn.GATConv(8, 6, 2, add_self_loops=False, bias=False)),
    Case("GATConv", "edge_attr", lambda: gnn.GATConv(8, 6, heads=2, edge_dim=3), EDGES),
    Case(
        "GATConv",
        "edge_attr of one channel",
        lambda: gnn.GATConv(8, 6, edge_dim=1),
        "x edge_index edge_attr=edge_weight",
    ),
    Case("GATConv", "edge_attr, max", lambda: gnn.GATConv(8, 6, 2, edge_dim=3, fill_value="max"), EDGES),
    Case("GATConv", "edge_attr, mul", lambda: gnn.GATConv(8, 6, 2, edge_dim=3, fill_value="mul"), EDGES),
    Case("GATConv", "edge_attr, number", lambda: gnn.GATConv(8, 6, 2, edge_dim=3, fill_value=0.5), EDGES),
    Case(
        "GATConv",
        "edge_attr, tensor",
        lambda: gnn.GATConv(8, 6, 2, edge_dim=3, fill_value=torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)),
        EDGES,
    ),
    Case("GATConv", "edge_attr, no self loops", lambda: gnn.GATConv(8, 6, edge_dim=3, add_self_loops=False), EDGES),
    Case("GATConv", "attention weights", lambda: gnn.GATConv(8, 6, heads=2), "x edge_index" + ATTENTION),
    Case("GATConv", "bipartite", lambda: gnn.GATConv((8, 5), 6, 2, add_self_loops=False), MIXED),
    Case("GATConv", "bipartite, shared", lambda: gnn.GATConv(8, 6, 2, add_self_loops=False), BIPARTITE),
    Case("GATConv", "bipartite, self loops", lambda: gnn.GATConv((8, 5), 6, 2), MIXED),
    Case("GATConv", "bipartite, size", lambda: gnn.GATConv((8, 5), 6, 2), MIXED + " size"),
    Case("GATConv", "bipartite, residual", lambda: gnn.GATConv((8, 5), 6, 2, residual=True), MIXED),
    Case("GATConv", "bipartite edge_attr", lambda: gnn.GATConv((8, 5), 6, 2, edge_dim=3), MIXED + " edge_attr"),
    Case("GATConv", "bipartite attention weights", lambda: gnn.GATConv((8, 5), 6, 2), MIXED + ATTENTION),
    Case("GATConv", "sources only", lambda: gnn.GATConv((8, 5), 6, 2, add_self_loops=False), LONE),
    Case("GATConv", "two transforms of one x", lambda: gnn.GATConv((8, 8), 6, heads=2)),
    Case("GATConv", "target to source", lambda: gnn.GATConv(8, 6, heads=2, flow="target_to_source")),
    Case("GATConv", "max", lambda: gnn.GATConv(8, 6, heads=2, aggr="max")),
    Case("GATConv", "lazy", lambda: initialised(gnn.GATConv(-1, 6, heads=2))),
    Case(
        "GATConv", "lazy, bipartite", lambda: initialised(gnn.GATConv((-1, -1), 6, add_self_loops=False), MIXED), MIXED
    ),
    Case("GATv2Conv", "plain", lambda: gnn.GATv2Conv(8, 6)),
    Case("GATv2Conv", "heads", lambda: gnn.GATv2Conv(8, 6, heads=3)),
    Case("GATv2Conv", "mean of heads", lambda: gnn.GATv2Conv(8, 6, heads=3, concat=False)),
    Case("GATv2Conv", "shared weights", lambda: gnn.GATv2Conv(8, 6, heads=2, share_weights=True)),
    Case("GATv2Conv", "residual", lambda: gnn.GATv2Conv(8, 6, heads=2, residual=True)),
    Case("GATv2Conv", "no self loops, no bias", lambda: gnn.GATv2Conv(8, 6, 2, add_self_loops=False, bias=False)),
    Case("GATv2Conv", "edge_attr", lambda: gnn.GATv2Conv(8, 6, heads=2, edge_dim=3), EDGES),
    Case("GATv2Conv", "edge_attr, number", lambda: gnn.GATv2Conv(8, 6, 2, edge_dim=3, fill_value=0.5), EDGES),
    Case("GATv2Conv", "attention weights", lambda: gnn.GATv2Conv(8, 6, heads=2), "x edge_index" + ATTENTION),
    Case("GATv2Conv", "bipartite", lambda: gnn.GATv2Conv((8, 5), 6, 2), MIXED),
    Case("GATv2Conv", "bipartite, shared", lambda: gnn.GATv2Conv((8, 8), 6, 2, share_weights=True), BIPARTITE),
    Case("GATv2Conv", "bipartite edge_attr", lambda: gnn.GATv2Conv((8, 5), 6, 2, edge_dim=3), MIXED + " edge_attr"),
    Case("GATv2Conv", "target to source", lambda: gnn.GATv2Conv(8, 6, heads=2, flow="target_to_source")),
    Case("GATv2Conv", "lazy", lambda: initialised(gnn.GATv2Conv(-1, 6, heads=2))),
    Case("GatedGraphConv", "plain", lambda: gnn.GatedGraphConv(8, 2)),
    Case("GatedGraphConv", "wider", lambda: gnn.GatedGraphConv(12, 2)),
    Case("GatedGraphConv", "one layer, no bias", lambda: gnn.GatedGraphConv(8, 1, bias=False)),
    Case("GatedGraphConv", "mean, edge_weight", lambda: gnn.GatedGraphConv(8, 3, aggr="mean"), WEIGHTED),
    Case("GatedGraphConv", "max", lambda: gnn.GatedGraphConv(10, 1, aggr="max")),
    Case("GCNConv", "plain", lambda: gnn.GCNConv(8, 6)),
    Case("GCNConv", "edge_weight", lambda: gnn.GCNConv(8, 6), WEIGHTED),
    Case("GCNConv", "improved", lambda: gnn.GCNConv(8, 6, improved=True), WEIGHTED),
    Case("GCNConv", "no self loops, no bias", lambda: gnn.GCNConv(8, 6, add_self_loops=False, bias=False)),
    Case("GCNConv", "not normalised", lambda: gnn.GCNConv(8, 6, normalize=False)),
    Case("GCNConv", "not normalised, edge_weight", lambda: gnn.GCNConv(8, 6, normalize=False), WEIGHTED),
    Case("GCNConv", "max", lambda: gnn.GCNConv(8, 6, aggr="max")),
    Case("GCNConv", "median", lambda: gnn.GCNConv(8, 6, aggr="median")),
    Case("GCNConv", "learned softmax", lambda: gnn.GCNConv(8, 6, aggr=gnn.SoftmaxAggregation(learn=True))),
    Case("GCNConv", "several aggregations", lambda: gnn.GCNConv(8, 6, bias=False, aggr=["mean", "max", "var"])),
    Case("GCNConv", "decomposed", lambda: gnn.GCNConv(8, 6, decomposed_layers=2)),
    Case("GCNConv", "target to source", lambda: gnn.GCNConv(8, 6, flow="target_to_source"), WEIGHTED),
    Case("GCNConv", "lazy", lambda: initialised(gnn.GCNConv(-1, 6))),
    Case("GCNConv", "static graph", lambda: gnn.GCNConv(8, 6), STATIC),
    Case("GCN2Conv", "plain", lambda: gnn.GCN2Conv(8, 0.1), INITIAL),
    Case("GCN2Conv", "theta", lambda: gnn.GCN2Conv(8, 0.2, theta=0.5, layer=2), INITIAL),
    Case("GCN2Conv", "two weights", lambda: gnn.GCN2Conv(8, 0.2, 0.5, 2, shared_weights=False), INITIAL),
    Case("GCN2Conv", "edge_weight", lambda: gnn.GCN2Conv(8, 0.2, add_self_loops=False), INITIAL + " edge_weight"),
    Case("GCN2Conv", "not normalised", lambda: gnn.GCN2Conv(8, 0.2, normalize=False), INITIAL),
    Case("GENConv", "plain", lambda: gnn.GENConv(8, 8)),
    Case("GENConv", "narrower", lambda: gnn.GENConv(8, 6, bias=True)),
    Case("GENConv", "edge_attr", lambda: gnn.GENConv(8, 6, edge_dim=3), EDGES),
    Case("GENConv", "edge_attr as wide", lambda: gnn.GENConv(8, 8), "x edge_index edge_attr=wide_edge_attr"),
    Case("GENConv", "learned t", lambda: gnn.GENConv(8, 6, t=0.5, learn_t=True)),
    Case("GENConv", "softmax_sg", lambda: gnn.GENConv(8, 6, aggr="softmax_sg", t=0.5)),
    Case("GENConv", "powermean", lambda: gnn.GENConv(8, 6, aggr="powermean", p=2.0, learn_p=True)),
    Case("GENConv", "add", lambda: gnn.GENConv(8, 6, aggr="add", norm=None)),
    Case("GENConv", "several aggregations", lambda: gnn.GENConv(8, 6, aggr=["mean", "max", "std"])),
    Case("GENConv", "message norm", lambda: gnn.GENConv(8, 8, msg_norm=True)),
    Case("GENConv", "learned message norm", lambda: gnn.GENConv(8, 6, msg_norm=True, learn_msg_scale=True)),
    Case("GENConv", "layer norm", lambda: gnn.GENConv(8, 6, norm="layer", num_layers=3)),
    Case("GENConv", "expansion", lambda: gnn.GENConv(8, 6, expansion=3)),
    Case("GENConv", "one layer", lambda: gnn.GENConv(8, 6, num_layers=1)),
    Case("GENConv", "bipartite", lambda: gnn.GENConv((8, 5), 6, edge_dim=3), MIXED + " edge_attr"),
    Case("GENConv", "bipartite, size", lambda: gnn.GENConv((8, 5), 6), MIXED + " size"),
    Case("GENConv", "sources only", lambda: gnn.GENConv((8, 5), 6), LONE),
    Case("GENConv", "lazy", lambda: initialised(gnn.GENConv(-1, 6))),
    Case("GeneralConv", "plain", lambda: gnn.GeneralConv(8, 6)),
    Case("GeneralConv", "as wide", lambda: gnn.GeneralConv(8, 8)),
    Case("GeneralConv", "skip_linear", lambda: gnn.GeneralConv(8, 8, skip_linear=True, aggr="mean")),
    Case("GeneralConv", "edge_attr", lambda: gnn.GeneralConv(8, 6, in_edge_channels=3), EDGES),
    Case("GeneralConv", "both directions", lambda: gnn.GeneralConv(8, 6, directed_msg=False, bias=False)),
    Case("GeneralConv", "heads", lambda: gnn.GeneralConv(8, 6, heads=3, aggr="max")),
    Case("GeneralConv", "attention", lambda: gnn.GeneralConv(8, 6, 3, heads=2, attention=True), EDGES),
    Case(
        "GeneralConv",
        "dot product",
        lambda: gnn.GeneralConv(8, 6, heads=2, attention=True, attention_type="dot_product"),
    ),
    Case("GeneralConv", "l2_normalize", lambda: gnn.GeneralConv(8, 6, l2_normalize=True)),
    Case("GeneralConv", "bipartite", lambda: gnn.GeneralConv((8, 5), 6, heads=2, attention=True), MIXED),
    Case("GeneralConv", "bipartite, size", lambda: gnn.GeneralConv((8, 5), 6), MIXED + " size"),
    Case("GINConv", "plain", lambda: gnn.GINConv(mlp(8, 12, 6))),
    Case("GINConv", "eps", lambda: gnn.GINConv(mlp(8, 12, 6), eps=0.5, train_eps=True)),
    Case("GINConv", "linear", lambda: gnn.GINConv(nn.Linear(8, 6), aggr="max")),
    Case("GINConv", "batch norm", lambda: gnn.GINConv(gnn.MLP([8, 12, 6], norm="batch_norm"))),
    Case("GINConv", "bipartite", lambda: gnn.GINConv(mlp(8, 12, 6)), BIPARTITE),
    Case("GINConv", "bipartite, size", lambda: gnn.GINConv(mlp(8, 12, 6)), BIPARTITE + " size"),
    Case("GINConv", "sources only", lambda: gnn.GINConv(mlp(8, 12, 6)), LONE),
    Case("GINConv", "sources only, several", lambda: gnn.GINConv(mlp(16, 12, 6), aggr=["mean", "max"]), LONE),
    Case("GINConv", "target to source", lambda: gnn.GINConv(mlp(8, 12, 6), flow="target_to_source")),
    Case("GINConv", "static graph", lambda: gnn.GINConv(mlp(8, 12, 6)), STATIC),
    Case("GINEConv", "edge_attr as wide", lambda: gnn.GINEConv(mlp(8, 12, 6)), "x edge_index edge_attr=wide_edge_attr"),
    Case("GINEConv", "edge_attr", lambda: gnn.GINEConv(mlp(8, 12, 6), edge_dim=3, eps=0.5, train_eps=True), EDGES),
    Case("GINEConv", "bipartite", lambda: gnn.GINEConv(mlp(8, 12, 6), edge_dim=3), BIPARTITE + " edge_attr"),
    Case("GINEConv", "sources only", lambda: gnn.GINEConv(mlp(8, 12, 6), edge_dim=3), LONE + " edge_attr"),
    Case("GMMConv", "plain", lambda: gnn.GMMConv(8, 6, dim=3, kernel_size=4), EDGES),
    Case("GMMConv", "separate gaussians", lambda: gnn.GMMConv(8, 6, 3, 4, separate_gaussians=True), EDGES),
    Case("GMMConv", "max, no bias", lambda: gnn.GMMConv(8, 6, 3, 2, aggr="max", bias=False), EDGES),
    Case("GMMConv", "one kernel", lambda: gnn.GMMConv(8, 6, 3, 1), EDGES),
    Case("GMMConv", "bipartite", lambda: gnn.GMMConv((8, 5), 6, 3, 2), MIXED + " edge_attr"),
    Case("GMMConv", "bipartite, size", lambda: gnn.GMMConv((8, 5), 6, 3, 2), MIXED + " edge_attr size"),
    Case("GMMConv", "sources only", lambda: gnn.GMMConv(8, 6, 3, 2, root_weight=False), LONE + " edge_attr"),
    Case(
        "GMMConv",
        "lazy",
        lambda: initialised(gnn.GMMConv(-1, 6, 3, 2), lambda g: (g.x, g.edge_index, g.edge_attr)),
        EDGES,
    ),
    Case("GPSConv", "plain", lambda: gnn.GPSConv(8, gnn.GCNConv(8, 8))),
    Case("GPSConv", "batch", lambda: gnn.GPSConv(8, gnn.GCNConv(8, 8), heads=2), "x edge_index batch"),
    Case("GPSConv", "no conv", lambda: gnn.GPSConv(8, None, heads=2), "x edge_index batch"),
    Case("GPSConv", "no norm", lambda: gnn.GPSConv(8, gnn.SAGEConv(8, 8), norm=None, act="gelu"), "x edge_index batch"),
    Case("GPSConv", "layer norm", lambda: gnn.GPSConv(8, gnn.SAGEConv(8, 8), norm="layer_norm"), "x edge_index batch"),
    Case("GPSConv", "graph norm", lambda: gnn.GPSConv(8, gnn.SAGEConv(8, 8), norm="graph_norm"), "x edge_index batch"),
    Case("GPSConv", "no bias in attention", lambda: gnn.GPSConv(8, gnn.SAGEConv(8, 8), attn_kwargs={"bias": False})),
    Case(
        "GPSConv",
        "performer",
        lambda: gnn.GPSConv(8, gnn.GCNConv(8, 8), heads=2, attn_type="performer"),
        "x edge_index batch",
    ),
    Case(
        "GPSConv",
        "edge_attr",
        lambda: gnn.GPSConv(8, gnn.GINEConv(mlp(8, 12, 8), edge_dim=3), heads=2),
        "x edge_index batch edge_attr",
    ),
    Case("GraphConv", "plain", lambda: gnn.GraphConv(8, 6)),
    Case("GraphConv", "edge_weight", lambda: gnn.GraphConv(8, 6, aggr="mean"), WEIGHTED),
    Case("GraphConv", "max, no bias", lambda: gnn.GraphConv(8, 6, aggr="max", bias=False)),
    Case("GraphConv", "softmax", lambda: gnn.GraphConv(8, 6, aggr="softmax", aggr_kwargs={"learn": True})),
    Case("GraphConv", "std", lambda: gnn.GraphConv(8, 6, aggr="std")),
    Case("GraphConv", "bipartite", lambda: gnn.GraphConv((8, 8), 6), BIPARTITE),
    Case("GraphConv", "bipartite edge_weight", lambda: gnn.GraphConv((8, 5), 6), MIXED + " edge_weight"),
    Case("GraphConv", "bipartite, size", lambda: gnn.GraphConv((8, 5), 6), MIXED + " size"),
    Case("GraphConv", "sources only", lambda: gnn.GraphConv((8, 5), 6), LONE),
    Case("GraphConv", "target to source", lambda: gnn.GraphConv(8, 6, flow="target_to_source"), WEIGHTED),
    Case("GraphConv", "lazy", lambda: initialised(gnn.GraphConv(-1, 6))),
    Case("GraphConv", "lazy, bipartite", lambda: initialised(gnn.GraphConv((-1, -1), 6), MIXED), MIXED),
    Case("GraphConv", "static graph", lambda: gnn.GraphConv(8, 6), STATIC),
    Case("HANConv", "plain", lambda: gnn.HANConv(BOTH, 6, METADATA), HETERO),
    Case("HANConv", "heads", lambda: gnn.HANConv(BOTH, 12, METADATA, heads=3, dropout=0.5), HETERO),
    Case(
        "HANConv",
        "semantic attention weights",
        lambda: gnn.HANConv(BOTH, 6, METADATA, heads=2),
        HETERO + " return_semantic_attention_weights=yes",
    ),
    Case("HANConv", "lazy", lambda: initialised(gnn.HANConv(-1, 6, METADATA), HETERO), HETERO),
    Case("HEATConv", "plain", lambda: gnn.HEATConv(8, 6, 3, 3, 4, 3, 5), HEAT),
    Case("HEATConv", "heads", lambda: gnn.HEATConv(8, 6, 3, 3, 4, 3, 5, heads=2, root_weight=False), HEAT),
    Case("HEATConv", "mean of heads", lambda: gnn.HEATConv(8, 6, 3, 3, 4, 3, 5, 2, concat=False, bias=False), HEAT),
    Case("HeteroConv", "sum", hetero, by_position),
    Case("HeteroConv", "mean", lambda: hetero("mean"), by_position),
    Case("HeteroConv", "max", lambda: hetero("max"), by_position),
    Case("HeteroConv", "min", lambda: hetero("min"), by_position),
    Case("HeteroConv", "cat", lambda: hetero("cat"), by_position),
    Case("HeteroConv", "no aggr", lambda: hetero(None), by_position),
    Case(
        "HeteroConv",
        "edge_weight_dict",
        lambda: gnn.HeteroConv({NEAR: gnn.GCNConv(8, 6), TO: gnn.GraphConv((8, 12), 6)}),
        with_weights,
    ),
    Case("HeteroConv", "in a model", TwoHetero, HETERO),
    Case("HGTConv", "plain", lambda: gnn.HGTConv(BOTH, 8, METADATA), HETERO),
    Case("HGTConv", "heads", lambda: gnn.HGTConv(BOTH, 6, METADATA, heads=2), HETERO),
    Case("HGTConv", "lazy", lambda: initialised(gnn.HGTConv(-1, 6, METADATA), HETERO), HETERO),
    Case("HypergraphConv", "plain", lambda: gnn.HypergraphConv(8, 6), HYPER),
    Case(
        "HypergraphConv",
        "num_edges",
        lambda: gnn.HypergraphConv(8, 6),
        lambda g: {"x": g.x, "hyperedge_index": g.bipartite, "num_edges": g.targets},
    ),
    Case(
        "HypergraphConv",
        "hyperedge_weight",
        lambda: gnn.HypergraphConv(8, 6, bias=False),
        lambda g: {"x": g.x, "hyperedge_index": g.bipartite, "hyperedge_weight": g.positive(g.targets)},
    ),
    Case("HypergraphConv", "attention", lambda: gnn.HypergraphConv(8, 6, use_attention=True), attention),
    Case(
        "HypergraphConv",
        "attention over edges",
        lambda: gnn.HypergraphConv(8, 6, use_attention=True, attention_mode="edge", heads=2),
        attention,
    ),
    Case(
        "HypergraphConv",
        "mean of heads",
        lambda: gnn.HypergraphConv(8, 6, use_attention=True, heads=2, concat=False),
        attention,
    ),
    Case("HypergraphConv", "lazy", lambda: initialised(gnn.HypergraphConv(-1, 6), HYPER), HYPER),
    Case("LEConv", "plain", lambda: gnn.LEConv(8, 6)),
    Case("LEConv", "edge_weight, no bias", lambda: gnn.LEConv(8, 6, bias=False), WEIGHTED),
    Case("LEConv", "mean", lambda: gnn.LEConv(8, 6, aggr="mean")),
    Case("LEConv", "bipartite", lambda: gnn.LEConv((8, 5), 6), MIXED + " edge_weight"),
    Case("LEConv", "lazy", lambda: initialised(gnn.LEConv(-1, 6))),
    Case("LGConv", "plain", gnn.LGConv, expect="nothing"),
    Case("LGConv", "edge_weight", gnn.LGConv, WEIGHTED, expect="nothing"),
    Case("LGConv", "not normalised", lambda: gnn.LGConv(normalize=False), WEIGHTED, expect="nothing"),
]
