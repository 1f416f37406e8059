"""Linear layers of types, and layers on dense adjacency matrices."""

import torch_geometric.nn as gnn

from tests.conformance.case import Case
from tests.conformance.small import DenseNetwork, Modularity

BATCHED, MASKED = "x=dense_x adj=dense_adj", "x=dense_x adj=dense_adj mask=dense_mask"
TYPED = "x type_vec=node_type"


def unlooped(g):
    return {"x": g.dense_x, "adj": g.dense_adj, "mask": g.dense_mask, "add_loop": False}


def mlp(*widths, **options):
    return gnn.MLP(list(widths), **options)


CASES = [
    Case("Linear", "plain", lambda: gnn.Linear(8, 6), "x"),
    Case("Linear", "bias False", lambda: gnn.Linear(8, 6, bias=False, weight_initializer="glorot"), "x"),
    Case("Linear", "three dimensions", lambda: gnn.Linear(8, 6, bias_initializer="zeros"), "x=dense_x"),
    Case("HeteroLinear", "plain", lambda: gnn.HeteroLinear(8, 6, 3), TYPED),
    Case("HeteroDictLinear", "plain", lambda: gnn.HeteroDictLinear({"a": 8, "b": 8}, 6),
         lambda g: {"x_dict": {"a": g.x, "b": g.x_dst}}),
    Case("HeteroDictLinear", "one width", lambda: gnn.HeteroDictLinear(8, 6, types=["a", "b"]),
         lambda g: {"x_dict": {"a": g.x, "b": g.x_dst}}),
    Case("HeteroDictLinear", "a type missing", lambda: gnn.HeteroDictLinear({"a": 8, "b": 8}, 6, bias=False),
         lambda g: {"x_dict": {"b": g.x_dst}}),
    Case("DenseGCNConv", "plain", lambda: gnn.DenseGCNConv(8, 6), BATCHED),
    Case("DenseGCNConv", "one graph", lambda: gnn.DenseGCNConv(8, 6), "x adj"),
    Case("DenseGCNConv", "mask", lambda: gnn.DenseGCNConv(8, 6, improved=True), MASKED),
    Case("DenseGCNConv", "add_loop False", lambda: gnn.DenseGCNConv(8, 6, bias=False), unlooped),
    Case("DenseGINConv", "plain", lambda: gnn.DenseGINConv(mlp(8, 8, 6, norm=None)), BATCHED),
    Case("DenseGINConv", "one graph", lambda: gnn.DenseGINConv(mlp(8, 8, 6, norm=None)), "x adj"),
    Case("DenseGINConv", "mask", lambda: gnn.DenseGINConv(mlp(8, 8, 6, norm=None), 0.1, train_eps=True), MASKED),
    Case("DenseGINConv", "add_loop False", lambda: gnn.DenseGINConv(mlp(8, 8, 6, norm=None)), unlooped),
    *(Case("DenseGraphConv", aggr, lambda aggr=aggr: gnn.DenseGraphConv(8, 6, aggr), call)
      for aggr, call in (("add", BATCHED), ("mean", MASKED), ("max", MASKED))),
    Case("DenseGraphConv", "one graph", lambda: gnn.DenseGraphConv(8, 6, bias=False), "x adj"),
    Case("DenseSAGEConv", "plain", lambda: gnn.DenseSAGEConv(8, 6), BATCHED),
    Case("DenseSAGEConv", "one graph", lambda: gnn.DenseSAGEConv(8, 6, bias=False), "x adj"),
    Case("DenseSAGEConv", "mask", lambda: gnn.DenseSAGEConv(8, 6), MASKED),
    Case("DenseSAGEConv", "normalize", lambda: gnn.DenseSAGEConv(8, 6, normalize=True), MASKED),
    Case("DenseGATConv", "plain", lambda: gnn.DenseGATConv(8, 6), BATCHED),
    Case("DenseGATConv", "one graph", lambda: gnn.DenseGATConv(8, 3, heads=2), "x adj"),
    Case("DenseGATConv", "heads mask", lambda: gnn.DenseGATConv(8, 3, heads=2, dropout=0.5), MASKED),
    Case("DenseGATConv", "concat False", lambda: gnn.DenseGATConv(8, 6, heads=2, concat=False), MASKED),
    Case("DenseGATConv", "add_loop False", lambda: gnn.DenseGATConv(8, 3, heads=2, bias=False), unlooped),
    Case("dense_diff_pool", "plain", lambda: DenseNetwork(gnn.dense_diff_pool), BATCHED),
    Case("dense_diff_pool", "mask", lambda: DenseNetwork(gnn.dense_diff_pool), MASKED),
    Case("dense_diff_pool", "normalize False", lambda: DenseNetwork(gnn.dense_diff_pool, normalize=False), BATCHED),
    Case("dense_diff_pool", "one graph", lambda: DenseNetwork(gnn.dense_diff_pool), "x adj"),
    Case("dense_mincut_pool", "plain", lambda: DenseNetwork(gnn.dense_mincut_pool), BATCHED),
    Case("dense_mincut_pool", "mask", lambda: DenseNetwork(gnn.dense_mincut_pool), MASKED),
    Case("dense_mincut_pool", "temp", lambda: DenseNetwork(gnn.dense_mincut_pool, temp=0.5), BATCHED),
    Case("DMoNPooling", "plain", lambda: gnn.DMoNPooling(8, 4), BATCHED),
    Case("DMoNPooling", "mask", lambda: gnn.DMoNPooling([8, 8], 4, dropout=0.5), MASKED),
    Case("DMoNPooling", "in a model", lambda: Modularity(gnn.DMoNPooling([8, 8], 4)), BATCHED),
]  # fmt: skip
