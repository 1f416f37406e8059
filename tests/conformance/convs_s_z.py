"""Convolutions, SAGE to WL; SplineConv and XConv need pyg_lib, so they are not here."""

import torch_geometric.nn as gnn
from torch import nn

from tests.conformance.case import Case, initialised

BIPARTITE = "x=mixed edge_index=bipartite"
LOOPED = "x edge_index=looped"  # every node needs an edge for a median
WEIGHTED, ATTRIBUTED = "x edge_index edge_weight", "x edge_index edge_attr"


def sage(inputs=8, **options):
    return gnn.SAGEConv(inputs, 6, **options)


def transformer(inputs=8, **options):
    return gnn.TransformerConv(inputs, 6, **options)


def supergat(**options):
    return gnn.SuperGATConv(8, 6, **options)


def mesh(graph):
    """Edges of a mesh, each with its four neighbours in order."""
    edges = graph.edge_index[:, : graph.edges // 4].flatten().repeat(4) % graph.nodes
    sources = edges.repeat(graph.nodes)[: 4 * graph.nodes]
    targets = sources.new_tensor(range(graph.nodes)).repeat_interleave(4)
    return graph.x, sources.new_tensor([sources.tolist(), targets.tolist()])


def signed(graph):
    return {"x": graph.x, "pos_edge_index": graph.edge_index, "neg_edge_index": graph.edge_index}


def signed_pair(graph):
    return {"x": graph.pair, "pos_edge_index": graph.bipartite, "neg_edge_index": graph.bipartite}


def signed_static(graph):
    return {"x": graph.static, "pos_edge_index": graph.edge_index, "neg_edge_index": graph.edge_index}


def colours(graph):
    return {"x": graph.index, "edge_index": graph.edge_index}


CASES = [
    Case("SAGEConv", "plain", sage),
    *[
        Case("SAGEConv", aggr, lambda aggr=aggr: sage(aggr=aggr))
        for aggr in ("sum", "max", "min", "mul", "var", "std", "softmax", "powermean")
    ],
    Case("SAGEConv", "median", lambda: sage(aggr="median"), LOOPED),
    Case("SAGEConv", "lstm", lambda: sage(aggr="lstm"), "x edge_index=sorted_edges"),
    Case("SAGEConv", "aggr list", lambda: sage(aggr=["mean", "max", "std"])),
    Case("SAGEConv", "aggr list project", lambda: sage(aggr=["sum", "min"], project=True, normalize=True)),
    Case("SAGEConv", "aggr modules", lambda: sage(aggr=[gnn.aggr.SoftmaxAggregation(learn=True), "median"]), LOOPED),
    Case(
        "SAGEConv",
        "aggr summed",
        lambda: sage(aggr=["mean", "max"], aggr_kwargs={"mode": "sum"}),
    ),
    Case(
        "SAGEConv",
        "aggr projected",
        lambda: sage(
            aggr=["mean", "max"],
            aggr_kwargs={"mode": "proj", "mode_kwargs": {"in_channels": 8, "out_channels": 8}},
        ),
    ),
    Case("SAGEConv", "softmax learn", lambda: sage(aggr=gnn.aggr.SoftmaxAggregation(learn=True, channels=8))),
    Case("SAGEConv", "softmax semi", lambda: sage(aggr=gnn.aggr.SoftmaxAggregation(t=0.1, semi_grad=True))),
    Case("SAGEConv", "quantile", lambda: sage(aggr=gnn.aggr.QuantileAggregation(0.3)), LOOPED),
    Case("SAGEConv", "deep sets", lambda: sage(aggr=gnn.aggr.DeepSetsAggregation(nn.Linear(8, 9), nn.Linear(9, 8)))),
    Case("SAGEConv", "project", lambda: sage(project=True)),
    Case("SAGEConv", "normalize", lambda: sage(normalize=True)),
    Case("SAGEConv", "no root no bias", lambda: sage(root_weight=False, bias=False)),
    Case("SAGEConv", "bipartite", lambda: sage((8, 5)), BIPARTITE),
    Case("SAGEConv", "bipartite project max", lambda: sage((8, 5), project=True, aggr="max"), BIPARTITE),
    Case("SAGEConv", "bipartite size", lambda: sage((8, 5)), "x=mixed edge_index=bipartite size"),
    Case("SAGEConv", "sources only", lambda: sage((8, 5)), "x=lone edge_index=bipartite size"),
    Case("SAGEConv", "size", sage, "x edge_index size=square"),
    Case("SAGEConv", "lazy", lambda: initialised(sage(-1))),
    Case("SAGEConv", "lazy pair", lambda: initialised(sage((-1, -1)), BIPARTITE), BIPARTITE),
    Case("SAGEConv", "static", sage, "x=static edge_index"),
    Case("SAGEConv", "flow", lambda: sage(flow="target_to_source")),
    Case("SGConv", "plain", lambda: gnn.SGConv(8, 6)),
    Case("SGConv", "K edge_weight", lambda: gnn.SGConv(8, 6, K=3), WEIGHTED),
    Case("SGConv", "no loops no bias", lambda: gnn.SGConv(8, 6, add_self_loops=False, bias=False)),
    Case("SGConv", "lazy", lambda: initialised(gnn.SGConv(-1, 6))),
    Case("SGConv", "static", lambda: gnn.SGConv(8, 6, K=2), "x=static edge_index"),
    Case("SSGConv", "plain", lambda: gnn.SSGConv(8, 6, alpha=0.1)),
    Case("SSGConv", "K edge_weight", lambda: gnn.SSGConv(8, 6, alpha=0.3, K=3), WEIGHTED),
    Case("SSGConv", "no loops", lambda: gnn.SSGConv(8, 6, alpha=0.3, add_self_loops=False, bias=False)),
    Case("SSGConv", "alpha 1", lambda: gnn.SSGConv(8, 6, alpha=1.0)),
    Case("SSGConv", "flow", lambda: gnn.SSGConv(8, 6, alpha=0.2, flow="target_to_source")),
    Case("SignedConv", "first", lambda: gnn.SignedConv(8, 6, True), signed),
    Case("SignedConv", "second", lambda: gnn.SignedConv(4, 6, False), signed),
    Case("SignedConv", "no bias add", lambda: gnn.SignedConv(8, 6, True, bias=False, aggr="add"), signed),
    Case("SignedConv", "first bipartite", lambda: gnn.SignedConv(8, 6, True), signed_pair),
    Case("SignedConv", "second bipartite", lambda: gnn.SignedConv(4, 6, False), signed_pair),
    Case("SignedConv", "second static", lambda: gnn.SignedConv(4, 6, False), signed_static),
    *[
        Case("SimpleConv", f"root {root}", lambda root=root: gnn.SimpleConv(combine_root=root), expect="nothing")
        for root in (None, "sum", "cat", "self_loop")
    ],
    Case("SimpleConv", "mean weight", lambda: gnn.SimpleConv("mean"), WEIGHTED, expect="nothing"),
    Case("SimpleConv", "list cat", lambda: gnn.SimpleConv(["mean", "max"], combine_root="cat"), expect="nothing"),
    Case("SimpleConv", "bipartite", lambda: gnn.SimpleConv("max", combine_root="cat"), BIPARTITE, expect="nothing"),
    Case(
        "SimpleConv",
        "linear after",
        lambda: gnn.Sequential(
            "x, edge_index", [(gnn.SimpleConv(combine_root="cat"), "x, edge_index -> x"), gnn.Linear(16, 6)]
        ),
    ),
    Case("SuperGATConv", "MX", supergat),
    Case("SuperGATConv", "MX heads", lambda: supergat(heads=3)),
    Case("SuperGATConv", "MX mean", lambda: supergat(heads=2, concat=False, bias=False)),
    Case("SuperGATConv", "SD", lambda: supergat(attention_type="SD")),
    Case("SuperGATConv", "SD heads", lambda: supergat(attention_type="SD", heads=2, add_self_loops=False)),
    Case("SuperGATConv", "batch", lambda: supergat(is_undirected=True), "x edge_index batch"),
    Case("SuperGATConv", "negative edges", supergat, "x edge_index neg_edge_index=edge_index"),
    Case("SuperGATConv", "lazy", lambda: initialised(gnn.SuperGATConv(-1, 6, heads=2))),
    Case("TAGConv", "plain", lambda: gnn.TAGConv(8, 6)),
    Case("TAGConv", "K edge_weight", lambda: gnn.TAGConv(8, 6, K=2), WEIGHTED),
    Case("TAGConv", "no normalize", lambda: gnn.TAGConv(8, 6, K=2, normalize=False, bias=False)),
    Case("TAGConv", "weights as given", lambda: gnn.TAGConv(8, 6, normalize=False), WEIGHTED),
    Case("TAGConv", "static", lambda: gnn.TAGConv(8, 6), "x=static edge_index"),
    Case("TransformerConv", "plain", transformer),
    Case("TransformerConv", "heads", lambda: transformer(heads=3)),
    Case("TransformerConv", "mean", lambda: transformer(heads=2, concat=False)),
    Case("TransformerConv", "beta", lambda: transformer(heads=2, beta=True)),
    Case("TransformerConv", "beta mean", lambda: transformer(heads=2, beta=True, concat=False)),
    Case("TransformerConv", "edge_attr", lambda: transformer(heads=2, edge_dim=3), ATTRIBUTED),
    Case("TransformerConv", "edge_attr beta", lambda: transformer(edge_dim=3, beta=True, concat=False), ATTRIBUTED),
    Case("TransformerConv", "no root no bias", lambda: transformer(heads=2, root_weight=False, bias=False)),
    Case("TransformerConv", "dropout", lambda: transformer(heads=2, dropout=0.5)),
    Case("TransformerConv", "bipartite", lambda: transformer((8, 5), heads=2), BIPARTITE),
    Case(
        "TransformerConv",
        "bipartite edge_attr beta",
        lambda: transformer((8, 5), heads=2, edge_dim=3, beta=True),
        f"{BIPARTITE} edge_attr",
    ),
    Case("TransformerConv", "lazy", lambda: initialised(transformer((-1, -1), heads=2), BIPARTITE), BIPARTITE),
    Case("TransformerConv", "flow", lambda: transformer(flow="target_to_source")),
    Case(
        "TransformerConv",
        "attention",
        lambda: transformer(heads=2),
        lambda g: {"x": g.x, "edge_index": g.edge_index, "return_attention_weights": True},
    ),
    Case(
        "TransformerConv",
        "attention edges",
        lambda: transformer(heads=2, edge_dim=3),
        lambda g: (g.x, g.edge_index, g.edge_attr, True),
    ),
    Case("WLConvContinuous", "plain", gnn.WLConvContinuous, expect="nothing"),
    Case("WLConvContinuous", "edge_weight", gnn.WLConvContinuous, WEIGHTED, expect="nothing"),
    Case("WLConvContinuous", "bipartite", gnn.WLConvContinuous, "x=pair edge_index=bipartite size", expect="nothing"),
    Case(
        "WLConvContinuous",
        "between linears",
        lambda: gnn.Sequential(
            "x, edge_index",
            [(gnn.Linear(8, 10), "x -> x"), (gnn.WLConvContinuous(), "x, edge_index -> x"), gnn.Linear(10, 6)],
        ),
    ),
    Case("WLConv", "colours", gnn.WLConv, colours, expect="refused", why="a Python loop over the colours of nodes"),
    Case("MeshCNNConv", "plain", lambda: gnn.MeshCNNConv(8, 6), mesh),
    Case(
        "MeshCNNConv",
        "kernels",
        lambda: gnn.MeshCNNConv(8, 6, nn.ModuleList(nn.Linear(8, 6) for _ in range(5))),
        mesh,
    ),
]
