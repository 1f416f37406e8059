"""Identity of channels: positions of different values that are the same channel, and channels ordered together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Positions
from upscale_fx.channels.recurrent import recurrent_module, state_count
from upscale_fx.channels.relations import Movement, Reduction
from upscale_fx.channels.relations.products import Recurrence


class DisjointSets:
    """Disjoint sets of the numbers ``0, 1, ..``; the smallest number of a set represents it.

    Pairs are collected first and united all at once, by array operations: graphs have many thousands of channels.
    """

    def __init__(self) -> None:
        self._count = 0
        self._pairs: list[tuple[Positions, Positions]] = []

    def add(self, count: int) -> Positions:
        """Add new numbers, each in a separate set, and return them."""
        start, self._count = self._count, self._count + count
        return np.arange(start, start + count, dtype=np.int64)

    def unite(self, first: Positions, second: Positions) -> None:
        """Unite the sets of two numbers, for every pair."""
        differ = first != second
        if differ.any():
            self._pairs.append((first[differ], second[differ]))

    def representatives(self) -> Positions:
        """Return for every number the representative of its set."""
        parent = np.arange(self._count, dtype=np.int64)
        if not self._pairs:
            return parent
        first, second = (np.concatenate(side) for side in zip(*self._pairs, strict=True))
        while len(first):
            # Each root gets the smallest root that a pair joins it to; then every number gets its root.
            np.minimum.at(parent, np.maximum(first, second), np.minimum(first, second))
            while not np.array_equal(above := parent[parent], parent):
                parent = above
            first, second = parent[first], parent[second]
            differ = first != second
            first, second = first[differ], second[differ]
        return parent


def channel_ids(flow: Dataflow, through_cat: bool = False) -> dict[fx.Node, Positions]:
    """Return the channel of every position of every value that is not a parameter.

    ``through_cat`` also follows channels through cat and entry, which keep channels but not their order, and through
    recurrent modules: a state is one channel in all results of a call, at all steps. The call itself, a tuple, then has
    the channels of all its states.
    """
    channels = DisjointSets()
    found: dict[fx.Node, Positions] = {}
    for node in flow.nodes:
        axes = flow.axes.get(node)
        if axes is None or node.op in ("get_attr", "output"):
            continue
        relation = flow.relations[node]
        if through_cat and isinstance(relation, Recurrence) and relation.states is not None:
            found[node] = _state_ids(flow, relation, found, channels)
            continue
        flows = list(relation.ties())
        if through_cat and isinstance(relation, Movement) and relation.how in ("cat", "entry", "place"):
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


def _state_ids(
    flow: Dataflow, relation: Recurrence, found: dict[fx.Node, Positions], channels: DisjointSets
) -> Positions:
    """The channels of a result of a recurrent module: those of its states, which its initial states have too."""
    if relation.call not in found:
        found[relation.call] = channels.add(state_count(recurrent_module(flow.module, relation.module)))
        for source, states in zip(relation.others, relation.initial, strict=True):
            if source in found:
                channels.unite(found[source], found[relation.call][states])
    assert relation.states is not None
    return found[relation.call][relation.states]


def components(ids: Mapping[fx.Node, Positions]) -> Positions:
    """Return the component of each channel; channels of one value are in one component, which is ordered together.

    The component is the smallest channel in it; -1 stands for the numbers that are no channel of ``ids``.
    """
    distinct = {own.tobytes(): own for own in ids.values()}  # most values share their channels with another
    sets = DisjointSets()
    count = 1 + max((int(own.max(initial=-1)) for own in distinct.values()), default=-1)
    sets.add(count)
    present = np.zeros(count, dtype=bool)
    for own in distinct.values():
        present[own] = True
        sets.unite(own[:-1], own[1:])
    return np.where(present, sets.representatives(), -1)


def first_seen(keys: Positions, values: Positions, known: Positions) -> None:
    """Set ``known[key]`` to the first value of each key, in place, where it is still -1."""
    fresh = known[keys] < 0
    known[keys[fresh][::-1]] = values[fresh][::-1]  # of equal keys, NumPy keeps what is written last
