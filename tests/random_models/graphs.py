"""Random graphs for random programs: arguments of their forward()."""

import torch

from tests.random_models.build import EDGE_FEATURES, FEATURES, OTHER_FEATURES, RELATIONS, SERIES, STEPS


def graph(nodes, edges, graphs, seed=0, hetero=False):
    """Node features, edges (with self loops and isolated nodes, as they come), edge features and types, graph ids.

    Then seeds ``[S]``, pairs ``[P, 2]`` and neighbours ``[N, 3]`` of nodes, features in time ``[T, N, F]``, and, unless
    there are two types of nodes, the features and edges of a second graph.
    """
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(nodes, FEATURES, generator=g, dtype=torch.float64)
    edge_index = torch.randint(nodes, (2, edges), generator=g)
    edge_attr = torch.randn(edges, EDGE_FEATURES, generator=g, dtype=torch.float64)
    edge_type = torch.randint(RELATIONS, (edges,), generator=g)
    batch = torch.arange(nodes) * graphs // nodes
    seeds, pairs = torch.randint(nodes, (nodes // 2 + 2,), generator=g), torch.randint(nodes, (5, 2), generator=g)
    near = torch.randint(nodes, (nodes, 3), generator=g)
    series = torch.randn(STEPS, nodes, SERIES, generator=g, dtype=torch.float64)
    if not hetero:
        x_t = torch.randn(nodes + 3, OTHER_FEATURES, generator=g, dtype=torch.float64)
        edge_index_t = torch.randint(nodes + 3, (2, edges // 2 + 2), generator=g)
        return x, edge_index, edge_attr, edge_type, batch, seeds, pairs, near, series, x_t, edge_index_t
    others, crossing = nodes // 2 + 1, edges // 2 + edges % 3
    y = torch.randn(others, OTHER_FEATURES, generator=g, dtype=torch.float64)
    first = torch.randint(nodes, (crossing,), generator=g)
    second = torch.randint(others, (crossing,), generator=g)
    relations = {
        ("a", "in", "a"): edge_index,
        ("a", "to", "b"): torch.stack([first, second]),
        ("b", "of", "a"): torch.stack([second, first])[:, : crossing - 1 if crossing else 0],
    }
    return {"a": x, "b": y}, relations, edge_attr, edge_type, batch, seeds, pairs, near, series


#: What programs are traced with, and what they are compared on: isolated nodes, no edges at all, more of everything.
EXAMPLES = {hetero: graph(8, 21, 2, hetero=hetero) for hetero in (False, True)}
OTHERS = {
    hetero: (graph(17, 40, 3, seed=2, hetero=hetero), graph(6, 0, 1, seed=1, hetero=hetero)) for hetero in (False, True)
}
