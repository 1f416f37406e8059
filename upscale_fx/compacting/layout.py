"""Which channels stand where: ties between positions, one order per tied component, one layout per value."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.rectangles import Level
from upscale_fx.channels.positions import Axes, Mask, Positions
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

    for own in ids.values():
        unique = np.unique(own).tolist()
        for channel in unique:
            parent.setdefault(channel, channel)
        for channel in unique[1:]:
            a, b = find(unique[0]), find(channel)
            if a != b:
                parent[max(a, b)] = min(a, b)
    return {channel: find(channel) for channel in parent}


def layout_of(axes: Axes, mask: Mask, rank: Positions, level: Level, blocks: Positions | None) -> Positions | None:
    """The layout of a value that keeps ``mask``: sorted by block, then by rank; occurrences of one channel apart.

    None where the kept positions are not rectangular at this level.
    """
    wide = axes.wide
    if level is Level.IDENTITY or not wide:
        return axes.everything()
    if level is Level.GRID and len(wide) > 1:
        return _grid_layout(axes, mask, rank)
    positions = np.flatnonzero(mask)
    lead = blocks[positions] if blocks is not None else np.zeros(len(positions), dtype=np.int64)
    if len(wide) == 1:
        order = np.lexsort((positions, rank[positions], _occurrence(rank[positions]), lead))
        shape = [1] * len(axes.shape)
        shape[wide[0]] = len(positions)
        return positions[order].reshape(shape)
    last = axes.shape[wide[-1]]
    cell = positions // last
    cell_rank = rank[positions] if _holds_one_channel_each(rank.reshape(-1, last)) else np.zeros_like(cell)
    order = np.lexsort((positions, rank[positions], lead, cell, cell_rank))
    shape = [len(np.unique(_coordinate(axes, positions, a))) if a in wide else 1 for a in range(len(axes.shape))]
    shape[wide[-1]] = len(positions) // int(np.prod(shape[: wide[-1]]))
    if int(np.prod(shape)) != len(positions):
        return None
    return positions[order].reshape(shape)


def _holds_one_channel_each(cells: Positions) -> bool:
    """Whether every cell is one channel (a stack): then cells follow its order; others (heads) keep their own."""
    return bool(np.all(cells == cells[:, :1]))


def _occurrence(rank: Positions) -> Positions:
    """How often the same channel was met before: the halves of a chunked value stay halves."""
    seen: dict[int, int] = {}
    found = np.zeros(len(rank), dtype=np.int64)
    for i, r in enumerate(rank.tolist()):
        found[i] = seen.get(r, 0)
        seen[r] = found[i] + 1
    return found


def _coordinate(axes: Axes, positions: Positions, axis: int) -> Positions:
    return np.unravel_index(positions, axes.shape)[axis].astype(np.int64)


def _grid_layout(axes: Axes, mask: Mask, rank: Positions) -> Positions:
    grid, ranks = mask.reshape(axes.shape), rank.reshape(axes.shape)
    picks = []
    for axis in range(len(axes.shape)):
        others = tuple(a for a in range(len(axes.shape)) if a != axis)
        kept = np.flatnonzero(grid.any(axis=others))
        mean = ranks.mean(axis=others)[kept]
        picks.append(kept[np.lexsort((kept, mean))])
    return axes.everything()[np.ix_(*picks)]
