"""Heterogeneous graphs: papers, authors and terms of different widths, and the relations between them."""

import warnings

import torch
import torch_geometric.nn as gnn
from torch import nn

from tests.conformance.case import Case, initialised
from tests.conformance.hetero_layers import GNN, WIDTHS, Each, Jumping, Net, Skip, Typed, WithEdges

EVEN = dict.fromkeys(WIDTHS, 8)
CITES, WRITES, WRITTEN = ("paper", "cites", "paper"), ("author", "writes", "paper"), ("paper", "written_by", "author")
IN, HAS = ("term", "in", "paper"), ("paper", "has", "term")
METADATA = (list(WIDTHS), [CITES, WRITES, WRITTEN, IN, HAS])
TWO = (["paper", "author"], [CITES, WRITES, WRITTEN])


def features(graph, widths):
    """Features of papers, authors and terms in their widths."""
    rows = {"paper": graph.nodes, "author": graph.targets, "term": graph.graphs + 4}
    return {key: graph.features(rows[key], width) for key, width in widths.items()}


def relations(graph, x, types=METADATA[1]):
    """Edges of each relation, each with a number of its own."""
    pairs = [(key, graph.edges - number) for number, key in enumerate(types)]
    return {key: _edges(graph, len(x[key[0]]), len(x[key[-1]]), count) for key, count in pairs}


def _edges(graph, sources, targets, count):
    return torch.stack([torch.randint(size, (count,), generator=graph.draw) for size in (sources, targets)])


def typed(widths=WIDTHS, types=METADATA[1], names=("x_dict", "edge_index_dict")):
    """A call with features and edges by type."""

    def call(graph):
        x = features(graph, widths)
        return dict(zip(names, (x, relations(graph, x, types)), strict=True))

    return call


def two(widths=WIDTHS, **options):
    return typed({key: widths[key] for key in TWO[0]}, TWO[1], **options)


def attributed(graph):
    given = typed()(graph)
    attributes = {key: graph.features(edges.size(1), 3) for key, edges in given["edge_index_dict"].items()}
    return {**given, "edge_attr_dict": attributes}


def weighted(graph):
    given = two()(graph)
    weights = {key: graph.positive(edges.size(1)) for key, edges in given["edge_index_dict"].items()}
    return {**given, "edge_weight_dict": weights}


def hetero(layer, widths=WIDTHS, types=METADATA[1], aggr="sum", outputs=6):
    """A HeteroConv of one kind of layer."""
    convs = {key: layer((widths[key[0]], widths[key[-1]]), outputs) for key in types}
    return gnn.HeteroConv(convs, aggr=aggr)


def gat(inputs, outputs):
    return gnn.GATConv(inputs, outputs, heads=2, concat=False, add_self_loops=False)


def mixed_layers():
    """A layer of its own for each relation, as the documentation has it."""
    return gnn.HeteroConv({CITES: gnn.GCNConv(8, 6), WRITES: gnn.SAGEConv((5, 8), 6), WRITTEN: gat((8, 5), 6)})


def graphs(layer, **options):
    return gnn.HeteroConv({key: layer((WIDTHS[key[0]], WIDTHS[key[-1]]), 6, **options) for key in TWO[1]})


def edged():
    convs = {key: gnn.TransformerConv((WIDTHS[key[0]], WIDTHS[key[-1]]), 6, heads=2, edge_dim=3) for key in METADATA[1]}
    return WithEdges(gnn.HeteroConv(convs, aggr="mean"))


def hidden(width=10):
    return dict.fromkeys(WIDTHS, width)


def deep(layer, **options):
    return Net(hetero(layer, outputs=10), hetero(layer, hidden()), **options)


def translated(model, call, metadata=TWO, **options):
    """A homogeneous model turned into a heterogeneous one, its lazy widths initialised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return initialised(gnn.to_hetero(model, metadata, **options), call)


def with_bases(model, call, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return initialised(gnn.to_hetero_with_bases(model, TWO, num_bases=2, **options), call)


SMALL = two(names=("x", "edge_index"))
ALL = typed(names=("x", "edge_index"))
SORTED = "x type_vec=node_type"

CASES = [
    *[
        Case("HeteroConv", f"sage {aggr}", lambda aggr=aggr: Net(hetero(gnn.SAGEConv, aggr=aggr)), typed())
        for aggr in ("sum", "mean", "min", "max", "cat", None)
    ],
    Case("HeteroConv", "mixed layers", lambda: Net(mixed_layers()), two()),
    Case("HeteroConv", "gat", lambda: Net(hetero(gat)), typed()),
    Case("HeteroConv", "by itself", lambda: hetero(gnn.SAGEConv), typed()),
    Case("HeteroConv", "edge_attr_dict", edged, attributed),
    Case("HeteroConv", "edge_weight_dict in a model", lambda: WithEdges(graphs(gnn.GraphConv)), weighted),
    Case("HeteroConv", "one type returned", lambda: Net(hetero(gnn.GraphConv), returned="author"), typed()),
    Case("HeteroConv", "two layers", lambda: deep(gnn.SAGEConv), typed()),
    Case("HeteroConv", "two layers paper", lambda: deep(gnn.SAGEConv, returned="paper"), typed()),
    Case("HeteroConv", "two layers gat head", lambda: deep(gat, returned="author", head=nn.Linear(6, 3)), typed()),
    Case(
        "HeteroConv",
        "lazy",
        lambda: initialised(Net(hetero(gnn.SAGEConv, dict.fromkeys(WIDTHS, -1))), typed()),
        typed(),
    ),
    Case("HeteroConv", "two node types", lambda: Net(graphs(gnn.TransformerConv), returned="paper"), two()),
    Case("HGTConv", "three types", lambda: gnn.HGTConv(WIDTHS, 6, METADATA, heads=2), typed()),
    Case("HGTConv", "one head", lambda: gnn.HGTConv(8, 8, METADATA), typed(EVEN)),
    Case("HGTConv", "skip", lambda: gnn.HGTConv(8, 8, METADATA, heads=2), typed(EVEN)),
    Case("HGTConv", "lazy three types", lambda: initialised(gnn.HGTConv(-1, 6, METADATA, heads=2), typed()), typed()),
    Case("HANConv", "three types", lambda: gnn.HANConv(WIDTHS, 6, METADATA, heads=2), typed()),
    Case("HANConv", "two types", lambda: gnn.HANConv(8, 6, TWO), two(EVEN)),
    Case("HANConv", "lazy three types", lambda: initialised(gnn.HANConv(-1, 6, METADATA, heads=2), typed()), typed()),
    Case(
        "HANConv",
        "attention",
        lambda: gnn.HANConv(WIDTHS, 6, METADATA, heads=2),
        lambda g: {**typed()(g), "return_semantic_attention_weights": True},
    ),
    Case("to_hetero", "sage", lambda: translated(GNN(gnn.SAGEConv, (-1, -1)), SMALL), SMALL),
    Case("to_hetero", "sage three types", lambda: translated(GNN(gnn.SAGEConv, (-1, -1)), ALL, METADATA), ALL),
    Case("to_hetero", "mean", lambda: translated(GNN(gnn.GraphConv, (-1, -1)), SMALL, aggr="mean"), SMALL),
    Case("to_hetero", "max", lambda: translated(GNN(gnn.SAGEConv, (-1, -1)), SMALL, aggr="max"), SMALL),
    Case("to_hetero", "gat skip", lambda: translated(Skip(), SMALL), SMALL),
    Case("to_hetero", "GraphSAGE", lambda: translated(gnn.GraphSAGE((-1, -1), 10, 2, 6), SMALL), SMALL),
    Case(
        "to_hetero", "GAT", lambda: translated(gnn.GAT((-1, -1), 10, 2, 6, v2=True, add_self_loops=False), SMALL), SMALL
    ),
    Case(
        "to_hetero_with_bases",
        "sage",
        lambda: with_bases(GNN(gnn.SAGEConv, (9, 9)), SMALL, in_channels={"x": 9}),
        SMALL,
    ),
    Case(
        "HeteroDictLinear",
        "dictionary",
        lambda: gnn.HeteroDictLinear(WIDTHS, 6),
        lambda g: {"x_dict": features(g, WIDTHS)},
    ),
    Case("HeteroLinear", "sorted", lambda: gnn.HeteroLinear(8, 6, 3, is_sorted=True), SORTED),
    Case("HeteroLinear", "unsorted", lambda: gnn.HeteroLinear(8, 6, 3), "x type_vec=mixed_type"),
    Case("HeteroLinear", "between", lambda: Typed(gnn.HeteroLinear(10, 10, 3, is_sorted=True, bias=False)), SORTED),
    Case("HeteroBatchNorm", "alone", lambda: gnn.HeteroBatchNorm(8, 3), SORTED, expect="nothing"),
    Case("HeteroBatchNorm", "between linears", lambda: Typed(gnn.HeteroBatchNorm(10, 3)), SORTED),
    Case("HeteroBatchNorm", "no affine", lambda: Typed(gnn.HeteroBatchNorm(10, 3, affine=False)), SORTED),
    Case(
        "HeteroBatchNorm", "no statistics", lambda: Typed(gnn.HeteroBatchNorm(10, 3, track_running_stats=False)), SORTED
    ),
    Case("HeteroLayerNorm", "alone", lambda: gnn.HeteroLayerNorm(8, 3), SORTED, expect="nothing"),
    Case("HeteroLayerNorm", "between linears", lambda: Typed(gnn.HeteroLayerNorm(10, 3)), SORTED),
    *[
        Case(
            "HeteroJumpingKnowledge",
            mode,
            lambda mode=mode, width=width: Each(Jumping(mode, width)),
            lambda g: {"x_dict": features(g, WIDTHS)},
        )
        for mode, width in (("cat", 18), ("max", 9), ("lstm", 9))
    ],
]
