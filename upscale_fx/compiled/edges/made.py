"""Make the edges of example graphs."""

from __future__ import annotations

import torch
from torch import Tensor


def random_edges(sources: int, targets: int, edges: int, generator: torch.Generator, loops: bool) -> Tensor:
    """Return random edges ``[2, E]``; the first and the last node of both sides have one."""
    source = torch.randint(sources, (edges,), generator=generator)
    target = torch.randint(targets, (edges,), generator=generator)
    if edges:
        # Layers read the number of nodes off the largest index, and some aggregations need an edge to the first node.
        target[0], source[0], target[-1] = 0, sources - 1, targets - 1
    if targets > 1 and not loops:
        source = torch.where(source == target, (source + 1) % sources, source)
    return torch.stack([source, target])


def regular_edges(nodes: int, degree: int, generator: torch.Generator) -> Tensor:
    """Return edges ``[2, nodes * degree]`` to every node from as many others, sorted by target."""
    target = torch.arange(nodes).repeat_interleave(degree)
    return torch.stack([torch.randint(nodes, target.shape, generator=generator), target])
