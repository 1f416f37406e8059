"""The form that edges of a graph are stored in: the two directions of an edge side by side, or no edge twice.

Forms are what a model may rely on: D-MPNN reads the reverse of edge ``e`` at ``e ^ 1``, and others find as many entries
in a dense adjacency matrix as there are edges.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: The edges are (a, b), (b, a), (c, d), (d, c), ...
PAIRS = "pairs"
#: The second half of the edges has those of the first half in reverse.
HALVES = "halves"
#: No edge twice, and every edge in both directions.
BOTH_WAYS = "both ways"
#: No edge twice.
DISTINCT = "distinct"
#: Forms that only graphs with an even number of edges have.
EVEN = (PAIRS, HALVES, BOTH_WAYS)
#: More pairs of nodes than these are not listed.
_MOST = 1_000_000


def forms_of(edge_index: Tensor) -> tuple[str, ...]:
    """Return the forms that edges ``[2, E]`` have."""
    edges = edge_index.detach().cpu()
    count = edges.shape[1]
    if not count:
        return ()
    found = []
    back = edges.flip(0)
    if count % 2 == 0:
        found += [PAIRS] * torch.equal(edges[:, 0::2], back[:, 1::2])
        found += [HALVES] * torch.equal(edges[:, : count // 2], back[:, count // 2 :])
    keys = _keys(edges, int(edges.max()) + 1).sort().values
    if not bool((keys[1:] == keys[:-1]).any()):
        loops = bool((edges[0] == edges[1]).any())
        symmetric = count % 2 == 0 and torch.equal(keys, _keys(back, int(edges.max()) + 1).sort().values)
        found += [BOTH_WAYS] * (symmetric and not loops) + [DISTINCT]
    return tuple(found)


def edges_in_form(form: str, edges: Tensor, sources: int, targets: int, generator: torch.Generator) -> Tensor:
    """Return as many edges in a form as ``edges`` ``[2, E]`` has, which are drawn without one."""
    count = edges.shape[1]
    if form == DISTINCT:
        return _distinct(edges, sources, targets, generator)
    half = edges[:, : count - count // 2]
    if form == BOTH_WAYS:
        ordered = torch.stack([half.amin(0), half.amax(0)])
        half = _distinct(ordered, sources, targets, generator, upwards=True)
    back = half.flip(0)[:, : count // 2]
    if form == PAIRS:
        both = half.new_empty(2, count)
        both[:, 0::2], both[:, 1::2] = half, back
        return both
    whole = torch.cat([half, back], 1)
    return whole[:, _keys(whole, max(sources, targets)).argsort()] if form == BOTH_WAYS else whole


def _distinct(edges: Tensor, sources: int, targets: int, generator: torch.Generator, upwards: bool = False) -> Tensor:
    """Replace edges that are there twice by others, as far as there are any; ``upwards``: to higher nodes."""
    keys = _keys(edges, targets)
    kept = keys.unique()  # type: ignore[no-untyped-call]
    if sources * targets <= _MOST:
        free = torch.arange(sources * targets)
        source, target = free // targets, free % targets
        free = free[(source < target) if upwards else (source != target) | (sources != targets)]
    else:
        free = torch.randint(sources * targets, (4 * len(keys),), generator=generator)
        free = free.unique()  # type: ignore[no-untyped-call]
        free = free[free // targets < free % targets] if upwards else free
    free = free[~torch.isin(free, kept)]
    missing = len(keys) - len(kept)
    more = free[torch.randperm(len(free), generator=generator)[:missing]]
    whole = torch.cat([kept, more, keys[: missing - len(more)]])
    whole = whole[torch.randperm(len(whole), generator=generator)]
    return torch.stack([whole // targets, whole % targets])


def _keys(edges: Tensor, targets: int) -> Tensor:
    return edges[0].long() * targets + edges[1].long()
