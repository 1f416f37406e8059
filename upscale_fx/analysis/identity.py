"""Identity of channels: positions of different values that are the same channel, and channels ordered together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Positions
from upscale_fx.channels.relations import Movement, Reduction


class DisjointSets:
    """Union-find: disjoint sets of the numbers ``0, 1, ..``; the smallest number of a set represents it."""

    def __init__(self) -> None:
        self._parent: list[int] = []

    def add(self, count: int) -> Positions:
        """Add new numbers, each in a separate set, and return them."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def find(self, number: int) -> int:
        """Return the number that represents the set of a number."""
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def unite(self, first: Positions, second: Positions) -> None:
        """Unite the sets of two numbers, for every pair."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            x, y = self.find(a), self.find(b)
            if x != y:
                self._parent[max(x, y)] = min(x, y)

    def representatives(self) -> Positions:
        """Return for every number the representative of its set."""
        return np.array([self.find(number) for number in range(len(self._parent))], dtype=np.int64)


def channel_ids(flow: Dataflow, through_cat: bool = False) -> dict[fx.Node, Positions]:
    """Return the channel of every position of every value that is not a parameter.

    ``through_cat`` also follows channels through cat and entry, which keep channels but not their order.
    """
    channels = DisjointSets()
    found: dict[fx.Node, Positions] = {}
    for node in flow.nodes:
        axes = flow.axes.get(node)
        if axes is None or node.op in ("get_attr", "output"):
            continue
        relation = flow.relations[node]
        flows = list(relation.ties())
        if through_cat and isinstance(relation, Movement) and relation.how in ("cat", "entry"):
            flows = list(relation.flows)
        ids = np.full(axes.count, -1, dtype=np.int64)
        for f in flows:
            if f.source not in found:
                continue
            here = np.flatnonzero(f.index >= 0)
            theirs = found[f.source][f.index[here]]
            fresh = ids[here] < 0
            channels.unite(ids[here[~fresh]], theirs[~fresh])
            ids[here[fresh]] = theirs[fresh]
        ids[ids < 0] = channels.add(int((ids < 0).sum()))
        found[node] = ids
        if isinstance(relation, Reduction) and not relation.frees and relation.source in found:
            channels.unite(found[relation.source], ids[relation.index])
    settled = channels.representatives()
    return {node: settled[ids] for node, ids in found.items()}


def components(ids: Mapping[fx.Node, Positions]) -> dict[int, int]:
    """Return the component of each channel; channels of one value are in one component, which is ordered together."""
    distinct = {own.tobytes(): own for own in ids.values()}  # most values share their channels with another
    sets = DisjointSets()
    sets.add(1 + max((int(own.max(initial=-1)) for own in distinct.values()), default=-1))
    channels: dict[int, None] = {}  # in the order in which they are met
    for own in distinct.values():
        unique = np.unique(own)
        channels |= dict.fromkeys(unique.tolist())
        sets.unite(unique[:-1], unique[1:])
    return {channel: sets.find(channel) for channel in channels}
