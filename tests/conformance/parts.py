"""Small pieces that modules are built from."""

from itertools import pairwise

from torch import nn

#: Node and relation types of ``Graph.x_dict`` and ``Graph.edge_index_dict``.
METADATA = (["a", "b"], [("a", "near", "a"), ("a", "to", "b"), ("b", "back", "a")])


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
