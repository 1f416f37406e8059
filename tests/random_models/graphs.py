"""Random graphs for random programs: arguments of their forward()."""

import torch

from tests.random_models.build import EDGE_FEATURES, FEATURES, OTHER_FEATURES, RELATIONS


def graph(nodes, edges, graphs, seed=0, hetero=False):
    """Node features, edges (with self loops and isolated nodes, as they come), edge features and types, graph ids."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(nodes, FEATURES, generator=g, dtype=torch.float64)
    edge_index = torch.randint(nodes, (2, edges), generator=g)
    edge_attr = torch.randn(edges, EDGE_FEATURES, generator=g, dtype=torch.float64)
    edge_type = torch.randint(RELATIONS, (edges,), generator=g)
    batch = torch.arange(nodes) * graphs // nodes
    if not hetero:
        return x, edge_index, edge_attr, edge_type, batch
    others, crossing = nodes // 2 + 1, edges // 2 + edges % 3
    y = torch.randn(others, OTHER_FEATURES, generator=g, dtype=torch.float64)
    first = torch.randint(nodes, (crossing,), generator=g)
    second = torch.randint(others, (crossing,), generator=g)
    relations = {
        ("a", "in", "a"): edge_index,
        ("a", "to", "b"): torch.stack([first, second]),
        ("b", "of", "a"): torch.stack([second, first])[:, : crossing - 1 if crossing else 0],
    }
    return {"a": x, "b": y}, relations, edge_attr, edge_type, batch


#: What programs are traced with, and what they are compared on: isolated nodes, no edges at all, more of everything.
EXAMPLES = {hetero: graph(8, 21, 2, hetero=hetero) for hetero in (False, True)}
OTHERS = {
    hetero: (graph(17, 40, 3, seed=2, hetero=hetero), graph(6, 0, 1, seed=1, hetero=hetero)) for hetero in (False, True)
}
