"""RGCN and FastRGCN, in every decomposition and with every kind of features."""

import torch_geometric.nn as gnn

from tests.conformance.case import Case

TYPED = "x edge_index edge_type"
BIPARTITE = "edge_index=bipartite edge_type"
INDEXED = "x=index edge_index edge_type"


def without_features(graph):
    """No features: each of forty nodes has an embedding, of which the edges use some."""
    return {"x": None, "edge_index": graph.edge_index, "edge_type": graph.edge_type}


def two_indices(graph):
    """Embeddings by number for sources and targets."""
    edges, types = graph.bipartite, graph.edge_type
    return {"x": (graph.index, graph.index[: graph.targets]), "edge_index": edges, "edge_type": types}


def cases(layer):
    name = layer.__name__
    return [
        Case(name, "plain", lambda: layer(8, 6, 3), TYPED),
        Case(name, "add", lambda: layer(8, 6, 3, aggr="add"), TYPED),
        Case(name, "no root no bias", lambda: layer(8, 6, 3, root_weight=False, bias=False), TYPED),
        Case(name, "num_bases", lambda: layer(8, 6, 3, num_bases=2), TYPED),
        Case(name, "num_blocks", lambda: layer(8, 6, 3, num_blocks=2), TYPED),
        Case(name, "flow", lambda: layer(8, 6, 3, flow="target_to_source"), TYPED),
        Case(name, "bipartite", lambda: layer((8, 5), 6, 3), f"x=mixed {BIPARTITE}"),
        Case(name, "bipartite num_bases", lambda: layer((8, 5), 6, 3, num_bases=2), f"x=mixed {BIPARTITE}"),
        Case(name, "bipartite num_blocks", lambda: layer((8, 5), 6, 3, num_blocks=2), f"x=mixed {BIPARTITE}"),
        Case(name, "index", lambda: layer(40, 6, 3), INDEXED, expect="nothing"),
        Case(name, "index num_bases", lambda: layer(40, 6, 3, num_bases=2), INDEXED, expect="nothing"),
        Case(name, "two indices", lambda: layer((40, 40), 6, 3), two_indices, expect="nothing"),
        Case(name, "no features", lambda: layer(40, 6, 3), without_features, expect="nothing"),
    ]


CASES = [
    *cases(gnn.RGCNConv),
    Case("RGCNConv", "max", lambda: gnn.RGCNConv(8, 6, 3, aggr="max"), TYPED),
    Case("RGCNConv", "is_sorted", lambda: gnn.RGCNConv(8, 6, 3, is_sorted=True), TYPED),
    *cases(gnn.FastRGCNConv),
]
