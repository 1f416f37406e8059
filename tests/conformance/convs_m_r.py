"""Convolutions, MF to RGAT; PANConv needs torch_sparse, so it is not here."""

import torch
import torch_geometric.nn as gnn
from torch import nn

from tests.conformance.case import Case, initialised
from tests.conformance.parts import mlp

DEGREES = torch.tensor([1, 3, 5, 4, 2])
ALL_AGGRS = ["sum", "mean", "min", "max", "var", "std"]
ALL_SCALERS = ["identity", "amplification", "attenuation", "linear", "inverse_linear"]
MULTIPLICATIVE = "multiplicative-self-attention"
TYPED, ATTRIBUTED = "x edge_index edge_type", "x edge_index edge_type edge_attr"


def pna(inputs=8, outputs=12, aggregators=("mean", "max"), scalers=("identity", "amplification"), **options):
    return gnn.PNAConv(inputs, outputs, list(aggregators), list(scalers), DEGREES, **options)


def nnconv(inputs, rows, **options):
    return gnn.NNConv(inputs, 6, mlp(3, 16, rows * 6), **options)


def rgat(**options):
    return gnn.RGATConv(8, 6, 3, **options)


def scaled(**options):
    """PyG leaves one weight of this option uninitialised."""
    layer = rgat(mod="scaled", **options)
    nn.init.constant_(layer.l2, 0.2)
    return layer


CASES = [
    Case("MFConv", "plain", lambda: gnn.MFConv(8, 6)),
    Case("MFConv", "max_degree 2", lambda: gnn.MFConv(8, 6, max_degree=2)),
    Case("MFConv", "max_degree 0 no bias", lambda: gnn.MFConv(8, 6, max_degree=0, bias=False)),
    Case("MFConv", "bipartite", lambda: gnn.MFConv((8, 5), 6, max_degree=3), "x=mixed edge_index=bipartite"),
    Case("MFConv", "sources only", lambda: gnn.MFConv(8, 6, max_degree=3), "x=lone edge_index=bipartite size"),
    Case("MFConv", "flow", lambda: gnn.MFConv(8, 6, max_degree=3, flow="target_to_source")),
    Case("MixHopConv", "plain", lambda: gnn.MixHopConv(8, 6)),
    Case("MixHopConv", "powers edge_weight", lambda: gnn.MixHopConv(8, 6, powers=[0, 2]), "x edge_index edge_weight"),
    Case("MixHopConv", "no loops no bias", lambda: gnn.MixHopConv(8, 6, [1, 3], add_self_loops=False, bias=False)),
    Case("MixHopConv", "static", lambda: gnn.MixHopConv(8, 6), "x=static edge_index"),
    Case("NNConv", "plain", lambda: nnconv(8, 8), "x edge_index edge_attr"),
    Case("NNConv", "mean", lambda: nnconv(8, 8, aggr="mean"), "x edge_index edge_attr"),
    Case("NNConv", "max no root", lambda: nnconv(8, 8, aggr="max", root_weight=False), "x edge_index edge_attr"),
    Case("NNConv", "no bias flow", lambda: nnconv(8, 8, bias=False, flow="target_to_source"), "x edge_index edge_attr"),
    Case("NNConv", "bipartite", lambda: nnconv((8, 5), 8), "x=mixed edge_index=bipartite edge_attr"),
    Case("NNConv", "sources only", lambda: nnconv((8, 5), 8), "x=lone edge_index=bipartite edge_attr size"),
    Case("NNConv", "one layer", lambda: gnn.NNConv(8, 6, nn.Linear(3, 48)), "x edge_index edge_attr"),
    Case("PDNConv", "plain", lambda: gnn.PDNConv(8, 6, 3, 10), "x edge_index edge_attr"),
    Case("PDNConv", "no loops", lambda: gnn.PDNConv(8, 6, 3, 10, add_self_loops=False), "x edge_index edge_attr"),
    Case("PDNConv", "no normalize", lambda: gnn.PDNConv(8, 6, 3, 10, normalize=False), "x edge_index edge_attr"),
    Case("PDNConv", "no bias", lambda: gnn.PDNConv(8, 6, 3, 10, bias=False), "x edge_index edge_attr"),
    Case("PNAConv", "plain", pna),
    Case("PNAConv", "all aggregators", lambda: pna(aggregators=ALL_AGGRS, scalers=["identity"])),
    Case("PNAConv", "all scalers", lambda: pna(scalers=ALL_SCALERS)),
    Case("PNAConv", "everything", lambda: pna(8, 12, ALL_AGGRS, ALL_SCALERS, edge_dim=3), "x edge_index edge_attr"),
    Case("PNAConv", "towers", lambda: pna(towers=3)),
    Case("PNAConv", "towers edge_attr", lambda: pna(towers=3, edge_dim=3), "x edge_index edge_attr"),
    Case("PNAConv", "divide_input", lambda: pna(towers=4, divide_input=True)),
    Case("PNAConv", "divide edges", lambda: pna(towers=2, divide_input=True, edge_dim=3), "x edge_index edge_attr"),
    Case("PNAConv", "pre_layers post_layers", lambda: pna(pre_layers=2, post_layers=3)),
    Case("PNAConv", "deep towers", lambda: pna(towers=2, pre_layers=2, post_layers=2, act="elu")),
    Case("PNAConv", "train_norm", lambda: pna(scalers=["linear", "inverse_linear"], train_norm=True)),
    Case("PNAConv", "act_kwargs", lambda: pna(pre_layers=2, act="leaky_relu", act_kwargs={"negative_slope": 0.3})),
    Case("PNAConv", "flow", lambda: pna(flow="target_to_source")),
    Case(
        "PointGNNConv",
        "plain",
        lambda: gnn.PointGNNConv(mlp(8, 6, 3), mlp(11, 10, 9), mlp(9, 7, 8)),
        "x pos edge_index",
    ),
    Case(
        "PointGNNConv",
        "gnn.MLP",
        lambda: gnn.PointGNNConv(gnn.MLP([8, 6, 3]), gnn.MLP([11, 10, 9]), gnn.MLP([9, 7, 8])),
        "x pos edge_index",
    ),
    Case("PointNetConv", "plain", gnn.PointNetConv, "x pos edge_index", expect="nothing"),
    Case("PointNetConv", "local", lambda: gnn.PointNetConv(mlp(11, 10, 6)), "x pos edge_index"),
    Case("PointNetConv", "local global", lambda: gnn.PointNetConv(mlp(11, 10, 9), mlp(9, 7, 6)), "x pos edge_index"),
    Case("PointNetConv", "global", lambda: gnn.PointNetConv(None, mlp(11, 7, 6), aggr="add"), "x pos edge_index"),
    Case("PointNetConv", "no loops", lambda: gnn.PointNetConv(mlp(11, 6), add_self_loops=False), "x pos edge_index"),
    Case(
        "PointNetConv",
        "positions only",
        lambda: gnn.PointNetConv(mlp(3, 10, 6)),
        lambda g: {"x": None, "pos": g.pos, "edge_index": g.edge_index},
    ),
    Case(
        "PointNetConv",
        "bipartite",
        lambda: gnn.PointNetConv(mlp(11, 10, 6), add_self_loops=False),
        "x=lone pos=pos_pair edge_index=bipartite",
    ),
    Case(
        "PointNetConv",
        "bipartite loops",
        lambda: gnn.PointNetConv(mlp(11, 10, 6)),
        "x=lone pos=pos_pair edge_index=bipartite",
    ),
    Case("PointTransformerConv", "plain", lambda: gnn.PointTransformerConv(8, 6), "x pos edge_index"),
    Case(
        "PointTransformerConv",
        "pos_nn attn_nn",
        lambda: gnn.PointTransformerConv(8, 6, mlp(3, 10, 6), mlp(6, 9, 6)),
        "x pos edge_index",
    ),
    Case(
        "PointTransformerConv",
        "no loops",
        lambda: gnn.PointTransformerConv(8, 6, attn_nn=mlp(6, 6), add_self_loops=False),
        "x pos edge_index",
    ),
    Case(
        "PointTransformerConv",
        "bipartite",
        lambda: gnn.PointTransformerConv((8, 5), 6, add_self_loops=False),
        "x=mixed pos=pos_pair edge_index=bipartite",
    ),
    Case(
        "PointTransformerConv",
        "bipartite loops",
        lambda: gnn.PointTransformerConv((8, 5), 6),
        "x=mixed pos=pos_pair edge_index=bipartite",
    ),
    Case("PPFConv", "plain", gnn.PPFConv, "x pos normal edge_index", expect="nothing"),
    Case("PPFConv", "local", lambda: gnn.PPFConv(mlp(12, 10, 6)), "x pos normal edge_index"),
    Case("PPFConv", "local global", lambda: gnn.PPFConv(mlp(12, 10, 9), mlp(9, 6)), "x pos normal edge_index"),
    Case("PPFConv", "no loops", lambda: gnn.PPFConv(mlp(12, 6), add_self_loops=False), "x pos normal edge_index"),
    Case(
        "PPFConv",
        "positions only",
        lambda: gnn.PPFConv(mlp(4, 10, 6)),
        lambda g: {"x": None, "pos": g.pos, "normal": g.normal, "edge_index": g.edge_index},
    ),
    Case(
        "PPFConv",
        "bipartite",
        lambda: gnn.PPFConv(mlp(12, 10, 6), add_self_loops=False),
        "x=lone pos=pos_pair normal=pos_pair edge_index=bipartite",
    ),
    Case("ResGatedGraphConv", "plain", lambda: gnn.ResGatedGraphConv(8, 6)),
    Case("ResGatedGraphConv", "tanh no root", lambda: gnn.ResGatedGraphConv(8, 6, act=nn.Tanh(), root_weight=False)),
    Case("ResGatedGraphConv", "no bias", lambda: gnn.ResGatedGraphConv(8, 6, bias=False)),
    Case("ResGatedGraphConv", "edges", lambda: gnn.ResGatedGraphConv(8, 6, edge_dim=3), "x edge_index edge_attr"),
    Case("ResGatedGraphConv", "bipartite", lambda: gnn.ResGatedGraphConv((8, 5), 6), "x=mixed edge_index=bipartite"),
    Case(
        "ResGatedGraphConv",
        "bipartite edge_attr",
        lambda: gnn.ResGatedGraphConv((8, 5), 6, edge_dim=3),
        "x=mixed edge_index=bipartite edge_attr",
    ),
    Case("ResGatedGraphConv", "lazy", lambda: initialised(gnn.ResGatedGraphConv(-1, 6))),
    Case("ResGatedGraphConv", "static", lambda: gnn.ResGatedGraphConv(8, 6), "x=static edge_index"),
    Case("ResGatedGraphConv", "flow", lambda: gnn.ResGatedGraphConv(8, 6, flow="target_to_source")),
    Case("RGATConv", "across additive", rgat, TYPED),
    Case("RGATConv", "across multiplicative", lambda: rgat(attention_mode=MULTIPLICATIVE, dim=2), TYPED),
    Case("RGATConv", "within additive", lambda: rgat(attention_mechanism="within-relation"), TYPED),
    Case(
        "RGATConv",
        "within multiplicative",
        lambda: rgat(attention_mechanism="within-relation", attention_mode=MULTIPLICATIVE, heads=2),
        TYPED,
    ),
    Case("RGATConv", "heads", lambda: rgat(heads=2), TYPED),
    Case("RGATConv", "heads mean", lambda: rgat(heads=2, concat=False), TYPED),
    Case("RGATConv", "multiplicative mean", lambda: rgat(attention_mode=MULTIPLICATIVE, dim=2, concat=False), TYPED),
    Case("RGATConv", "num_bases", lambda: rgat(num_bases=4), TYPED),
    Case("RGATConv", "num_blocks", lambda: rgat(num_blocks=2), TYPED),
    Case("RGATConv", "edge_attr", lambda: rgat(edge_dim=3, heads=2), ATTRIBUTED),
    Case("RGATConv", "multiply edges", lambda: rgat(edge_dim=3, attention_mode=MULTIPLICATIVE), ATTRIBUTED),
    Case("RGATConv", "mod additive", lambda: rgat(mod="additive"), TYPED),
    Case("RGATConv", "mod additive multiply", lambda: rgat(mod="additive", attention_mode=MULTIPLICATIVE), TYPED),
    Case("RGATConv", "mod scaled", scaled, TYPED),
    Case("RGATConv", "mod scaled multiply", lambda: scaled(attention_mode=MULTIPLICATIVE), TYPED),
    Case("RGATConv", "mod f-additive", lambda: rgat(mod="f-additive"), TYPED),
    Case("RGATConv", "mod f-scaled", lambda: rgat(mod="f-scaled", bias=False), TYPED),
    Case(
        "RGATConv",
        "attention",
        lambda: rgat(heads=2),
        lambda g: {"x": g.x, "edge_index": g.edge_index, "edge_type": g.edge_type, "return_attention_weights": True},
    ),
]
