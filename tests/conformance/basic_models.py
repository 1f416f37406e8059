"""MLP, the BasicGNN family, and what is stacked from layers: jumping knowledge, residual blocks, PyG's Sequential."""

import torch
import torch_geometric.nn as gnn
from torch import nn
from torch_geometric.nn import models

from tests.conformance.case import Case
from tests.conformance.small import Between

GRAPH = "x edge_index"
BATCHED = "x edge_index batch"
DEGREES = torch.tensor([1, 4, 6, 3, 1])
PNA = {"aggregators": ["mean", "max", "std"], "scalers": ["identity", "amplification"], "deg": DEGREES}


def mlp(how, call="x", **options):
    return Case("MLP", how, lambda: gnn.MLP([8, 8, 7, 6], **options), call)


def basic(name, how, call=GRAPH, layers=3, out=6, **options):
    return Case(name, how, lambda: getattr(models, name)(8, 8, layers, out, **options), call)


def block(how, norm=True):
    return lambda: models.DeepGCNLayer(gnn.GENConv(8, 8), nn.LayerNorm(8) if norm else None, nn.ReLU(), how, 0.1)


def reversible(**options):
    return models.GroupAddRev(gnn.SAGEConv(4, 4), num_groups=2, **options)


def branches(g):
    return {"xs": [g.x, g.x, g.x]}


def sampled(**more):
    hops = {"num_sampled_nodes_per_hop": [4, 0, 0], "num_sampled_edges_per_hop": [7, 5, 6]}
    return lambda g: {"x": g.x, "edge_index": g.edge_index, **{key: getattr(g, key) for key in more}, **hops}


NORMS = {
    "batch_norm": {}, "instance_norm": {}, "layer_norm": {"mode": "graph"}, "graph_norm": {},
    "pair_norm": {}, "diff_group_norm": {"groups": 2},
}  # fmt: skip

CASES = [
    mlp("plain"),
    mlp("norm None", norm=None),
    mlp("act_first", act_first=True, norm="layer_norm", norm_kwargs={"mode": "node"}),
    mlp("batch", "x batch", norm="graph_norm"),
    mlp("batch_size", "x batch batch_size", norm="layer_norm", act="elu"),
    mlp("instance norm", "x batch", norm="instance_norm", act=nn.PReLU()),
    mlp("dropout list", dropout=[0.5, 0.1, 0.0], act="leaky_relu", act_kwargs={"negative_slope": 0.2}),
    mlp("plain_last False", plain_last=False),
    mlp("bias list", bias=[True, False, True], act=None),
    mlp("return_emb", lambda g: {"x": g.x, "return_emb": True}),
    Case("MLP", "by numbers", lambda: gnn.MLP(in_channels=8, hidden_channels=9, out_channels=6, num_layers=4), "x"),
    basic("GCN", "plain"),
    basic("GCN", "edge_weight", "x edge_index edge_weight", improved=True),
    basic("GCN", "out_channels None", layers=2, out=None),
    basic("GCN", "one layer", layers=1),
    basic("GCN", "act_first", act="gelu", act_first=True, norm="batch_norm", normalize=False),
    basic("GCN", "act None", act=None, dropout=0.5),
    *(basic("GCN", f"jk {jk}", jk=jk) for jk in ("last", "cat", "max", "lstm")),
    basic("GCN", "jk cat out_channels None", jk="cat", out=None),
    *(basic("GCN", norm, BATCHED, norm=norm, norm_kwargs=more) for norm, more in NORMS.items()),
    basic("GCN", "batch_size", "x edge_index batch batch_size", norm="graph_norm"),
    basic("GCN", "sampled", sampled(edge_weight=True)),
    basic("GraphSAGE", "plain"),
    basic("GraphSAGE", "options", aggr="max", normalize=True, project=True),
    basic("GraphSAGE", "several aggregations", aggr=["mean", "max"], jk="max", norm="batch_norm"),
    basic("GraphSAGE", "bipartite", lambda g: ((g.x, g.x), g.edge_index), layers=1),
    basic("GraphSAGE", "sampled", sampled()),
    basic("GIN", "plain"),
    basic("GIN", "train_eps", train_eps=True, norm="batch_norm", jk="cat"),
    basic("GIN", "act_first norm", BATCHED, act_first=True, norm="graph_norm"),
    basic("GAT", "plain"),
    basic("GAT", "heads", heads=2, jk="max"),
    basic("GAT", "concat False", heads=2, concat=False),
    basic("GAT", "v2", v2=True, heads=2, layers=2),
    basic("GAT", "v2 edge_attr", "x edge_index edge_attr", v2=True, edge_dim=3, share_weights=True),
    basic("GAT", "edge_attr", "x edge_index edge_attr", edge_dim=3, heads=2, residual=True),
    basic("GAT", "sampled edge_attr", sampled(edge_attr=True), edge_dim=3),
    basic("PNA", "plain", **PNA),
    basic("PNA", "edge_attr towers", "x edge_index edge_attr", edge_dim=3, towers=2, **PNA),
    basic("PNA", "jk norm", jk="cat", norm="batch_norm", divide_input=True, towers=2, **PNA),
    basic("EdgeCNN", "plain"),
    basic("EdgeCNN", "norm", norm="batch_norm", aggr="mean", jk="max"),
    Case("JumpingKnowledge", "cat", lambda: models.JumpingKnowledge("cat"), branches, "nothing"),
    Case("JumpingKnowledge", "max", lambda: models.JumpingKnowledge("max"), branches, "nothing"),
    Case("JumpingKnowledge", "lstm", lambda: models.JumpingKnowledge("lstm", 8, 3), branches),
    *(Case("DeepGCNLayer", how, block(how), lambda g: (g.x, g.edge_index))
      for how in ("res+", "res", "dense", "plain")),
    *(Case("DeepGCNLayer", f"{how} between", lambda how=how: Between(block(how)(), 16 if how == "dense" else 8), GRAPH)
      for how in ("res+", "res", "dense", "plain")),
    Case("DeepGCNLayer", "without norm", lambda: Between(block("res+", False)()), GRAPH),
    Case("GroupAddRev", "plain", reversible, lambda g: (g.x, g.edge_index)),
    Case("GroupAddRev", "between", lambda: Between(reversible()), GRAPH),
    Case("GroupAddRev", "disable", lambda: Between(reversible(disable=True)), GRAPH),
    Case("Sequential", "positional", lambda: gnn.Sequential("x, edge_index", [
        (gnn.GCNConv(8, 8), "x, edge_index -> x"), nn.ReLU(inplace=True),
        (gnn.GCNConv(8, 8), "x, edge_index -> x"), nn.Linear(8, 6)]), lambda g: (g.x, g.edge_index)),
    Case("Sequential", "named outputs", lambda: gnn.Sequential("x, edge_index, edge_weight", [
        (nn.Dropout(0.5), "x -> x"),
        (gnn.GCNConv(8, 8), "x, edge_index, edge_weight -> x1"), nn.ReLU(),
        (gnn.GraphConv(8, 8), "x1, edge_index, edge_weight -> x2"), nn.ReLU(),
        (lambda first, second: [first, second], "x1, x2 -> xs"),
        (gnn.JumpingKnowledge("cat"), "xs -> x"), nn.Linear(16, 6)]), "x edge_index edge_weight"),
]  # fmt: skip
