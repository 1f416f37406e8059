"""Which positions of which values are the same channel, and which channels are ordered together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Positions
from upscale_fx.channels.relations import Movement, Reduction


class Channels:
    """Union-find over channels: every value's positions as channel ids, and the component each channel belongs to."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.ids: dict[fx.Node, Positions] = {}

    def add(self, count: int) -> Positions:
        """New channels."""
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def find(self, channel: int) -> int:
        """The representative of a channel."""
        parent = self.parent
        while parent[channel] != channel:
            parent[channel] = parent[parent[channel]]
            channel = parent[channel]
        return channel

    def unite(self, first: Positions, second: Positions) -> None:
        """Make channels pairwise the same; the earlier one represents both."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            x, y = self.find(a), self.find(b)
            if x != y:
                self.parent[max(x, y)] = min(x, y)

    def settle(self) -> None:
        """Replace all ids by their representatives."""
        roots = np.array([self.find(c) for c in range(len(self.parent))], dtype=np.int64)
        self.ids = {node: roots[ids] for node, ids in self.ids.items()}


def channel_ids(flow: Dataflow, through_cat: bool = False) -> dict[fx.Node, Positions]:
    """The channel of every position of every value that is not a parameter.

    ``through_cat`` also follows channels through cat and entry, where the order (but not the identity) is free.
    """
    channels = Channels()
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
            if f.source not in channels.ids:
                continue
            here = np.flatnonzero(f.index >= 0)
            theirs = channels.ids[f.source][f.index[here]]
            fresh = ids[here] < 0
            channels.unite(ids[here[~fresh]], theirs[~fresh])
            ids[here[fresh]] = theirs[fresh]
        ids[ids < 0] = channels.add(int((ids < 0).sum()))
        channels.ids[node] = ids
        if isinstance(relation, Reduction) and not relation.frees and relation.source in channels.ids:
            channels.unite(channels.ids[relation.source], ids[relation.index])
    channels.settle()
    return channels.ids


def components(ids: Mapping[fx.Node, Positions]) -> dict[int, int]:
    """Channel -> component: channels that meet in one value, directly or through others, are ordered together."""
    parent: dict[int, int] = {}

    def find(channel: int) -> int:
        while parent[channel] != channel:
            parent[channel] = parent[parent[channel]]
            channel = parent[channel]
        return channel

    distinct = {own.tobytes(): own for own in ids.values()}  # most values have the channels of another
    for own in distinct.values():
        unique = np.unique(own).tolist()
        for channel in unique:
            parent.setdefault(channel, channel)
        for channel in unique[1:]:
            a, b = find(unique[0]), find(channel)
            if a != b:
                parent[max(a, b)] = min(a, b)
    return {channel: find(channel) for channel in parent}
