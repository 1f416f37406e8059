"""Pooling: of whole graphs, of nodes by score, of edges, of clusters; by itself and inside small models."""

import torch
import torch_geometric.nn as gnn
from torch import nn
from torch_geometric.nn.pool import avg_pool_neighbor_x, avg_pool_x, max_pool_neighbor_x, max_pool_x

from tests.conformance.case import Case
from tests.conformance.small import Between, Clustered, GraphClassifier, Hierarchy

NODES, FULL = "x edge_index batch", "x edge_index edge_attr batch"
SORTED, MERGED = "a Python loop over edges sorted by score", "clusters found by SciPy"


def clustered(g):
    """Two neighbouring nodes a cluster, never of two graphs."""
    pairs = g.batch * g.nodes + torch.arange(g.nodes) // 2
    return {"x": g.x, "edge_index": g.edge_index, "cluster": pairs.unique(return_inverse=True)[1], "batch": g.batch}


def topk(how, call=NODES, **options):
    return Case("TopKPooling", how, lambda: gnn.TopKPooling(8, **options), call)


def sag(how, call=NODES, **options):
    return Case("SAGPooling", how, lambda: gnn.SAGPooling(8, **options), call)


def asap(how, call=NODES, **options):
    single = not isinstance(call, str) or "weight" not in call  # PyG makes weights of one in float32
    return Case("ASAPooling", how, lambda: gnn.ASAPooling(8, **options), call,
                dtype=torch.float32 if single else torch.float64)  # fmt: skip


def memory(how, call, **options):
    return Case("MemPooling", how, lambda: gnn.MemPooling(8, 6, heads=2, num_clusters=3, **options), call)


CASES = [
    *(Case(pool.__name__, how, lambda pool=pool: GraphClassifier(pool), call)
      for pool in (gnn.global_add_pool, gnn.global_mean_pool, gnn.global_max_pool)
      for how, call in (
          ("batch", NODES),
          ("size", f"{NODES} size=batch_size"),
          ("one graph", lambda g: {"x": g.x, "edge_index": g.edge_index, "batch": None}),
      )),
    Case("global_add_pool", "alone", gnn.SumAggregation, "x index=batch dim_size=batch_size", "nothing"),
    Case("global_mean_pool", "several", lambda: GraphClassifier(
        gnn.MultiAggregation(["sum", "mean", "max"]), 24), NODES),
    topk("plain"),
    topk("without batch", "x edge_index"),
    topk("edge_attr", FULL),
    topk("ratio a number", ratio=2),
    topk("ratio", ratio=0.8, multiplier=2.0, nonlinearity="sigmoid"),
    topk("nonlinearity", nonlinearity=torch.relu),
    topk("min_score", min_score=0.2),
    topk("min_score edge_attr", FULL, min_score=0.1, ratio=None),
    topk("attn", lambda g: {"x": g.x, "edge_index": g.edge_index, "batch": g.batch, "attn": g.x}),
    Case("TopKPooling", "between", lambda: Between(gnn.TopKPooling(8)), FULL),
    Case("TopKPooling", "in a model", lambda: Hierarchy(gnn.TopKPooling(8, ratio=0.8)), NODES),
    Case("TopKPooling", "in a model min_score", lambda: Hierarchy(gnn.TopKPooling(8, min_score=0.1)), NODES),
    sag("plain"),
    sag("without batch", "x edge_index"),
    sag("edge_attr", FULL, multiplier=3.0),
    sag("min_score", min_score=0.2),
    sag("GCNConv", GNN=gnn.GCNConv),
    sag("SAGEConv", GNN=gnn.SAGEConv, ratio=3),
    sag("GATConv", GNN=gnn.GATConv, add_self_loops=False),
    sag("ChebConv", GNN=gnn.ChebConv, K=2, nonlinearity="relu"),
    sag("attn", lambda g: {"x": g.x, "edge_index": g.edge_index, "batch": g.batch, "attn": g.x}),
    Case("SAGPooling", "in a model", lambda: Hierarchy(gnn.SAGPooling(8, GNN=gnn.GCNConv)), NODES),
    Case("SAGPooling", "in a model min_score", lambda: Hierarchy(gnn.SAGPooling(8, min_score=0.1)), NODES),
    asap("plain"),
    asap("without batch", "x edge_index"),
    asap("edge_weight", "x edge_index edge_weight batch"),
    asap("ratio", ratio=3, negative_slope=0.1),
    asap("GNN", "x edge_index edge_weight batch", GNN=gnn.GCNConv),
    asap("add_self_loops", "x edge_index edge_weight batch", add_self_loops=True, dropout=0.5),
    memory("batch", "x batch"),
    memory("batch_size", "x batch batch_size", tau=2.0),
    memory("dense", "x=dense_x"),
    memory("dense mask", "x=dense_x mask=dense_mask"),
    memory("max_num_nodes", lambda g: {"x": g.x, "batch": g.batch, "max_num_nodes": 12}),
    Case("MemPooling", "between", lambda: Between(gnn.MemPooling(8, 8, 1, 3)), "x batch"),
    Case("EdgePooling", "plain", lambda: gnn.EdgePooling(8), NODES, "refused", SORTED),
    Case("EdgePooling", "in a model", lambda: Between(gnn.EdgePooling(8, gnn.EdgePooling.compute_edge_score_tanh)),
         NODES, "refused", SORTED),
    Case("ClusterPooling", "plain", lambda: gnn.ClusterPooling(8), NODES, "refused", MERGED, torch.float32),
    Case("ClusterPooling", "sigmoid", lambda: gnn.ClusterPooling(8, "sigmoid", threshold=0.4), NODES, "refused", MERGED,
         torch.float32),
    Case("max_pool_x", "plain", lambda: Clustered(max_pool_x), clustered),
    Case("max_pool_x", "size", lambda: Clustered(max_pool_x, size=40), clustered),
    Case("avg_pool_x", "plain", lambda: Clustered(avg_pool_x), clustered),
    Case("avg_pool_x", "size", lambda: Clustered(avg_pool_x, size=40), clustered),
    Case("max_pool", "plain", lambda: Clustered(gnn.max_pool, "graph"), clustered),
    Case("avg_pool", "plain", lambda: Clustered(gnn.avg_pool, "graph"), clustered),
    Case("max_pool_neighbor_x", "plain", lambda: Clustered(max_pool_neighbor_x, "neighbours"), clustered),
    Case("avg_pool_neighbor_x", "flow", lambda: Clustered(
        avg_pool_neighbor_x, "neighbours", flow="target_to_source"), clustered),
    Case("Sequential", "pool", lambda: gnn.Sequential("x, edge_index, batch", [
        (gnn.GCNConv(8, 8), "x, edge_index -> x"), nn.ReLU(),
        (gnn.global_mean_pool, "x, batch -> x"), nn.Linear(8, 6)]), NODES),
]  # fmt: skip
