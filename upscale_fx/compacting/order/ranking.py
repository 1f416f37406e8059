"""The order of every component: what is read of its values, what reading costs, and which places are given."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from math import inf

import numpy as np
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.identity import channel_ids, components, first_seen
from upscale_fx.channels.positions import Mask, Positions
from upscale_fx.channels.relations import Barrier, Contraction, Movement, Reduction, Source
from upscale_fx.channels.relations.products import Recurrence
from upscale_fx.compacting.order.choose import choose_order, contiguous, copies_lower_bound
from upscale_fx.compacting.order.groups import Reader


@dataclass(frozen=True)
class Ranking:
    """The place of every channel in its component's order; -1 for numbers that are no channel."""

    ids: dict[fx.Node, Positions]
    rank: Positions
    unviewable: int = 0  # at least this many readers cannot have a view, whatever the order

    def of(self, node: fx.Node, count: int) -> Positions:
        """Rank of each position of a value."""
        return self.rank[self.ids[node]] if node in self.ids else np.arange(count, dtype=np.int64)


@dataclass(frozen=True)
class Known:
    """What does not change while the layouts of one graph are searched for.

    Attributes:
        ids: the channels of all values.
        orders: per number of channels and their readers the order chosen, and how many of them cannot have a view.
    """

    ids: dict[fx.Node, Positions]
    orders: dict[Hashable, tuple[Positions, int]] = field(default_factory=dict)


def rank_channels(
    flow: Dataflow, kept: Mapping[fx.Node, Mask], widen: bool = True, known: Known | None = None
) -> Ranking:
    """Choose the order of every component: cheapest for its readers, original where something reads it in place.

    ``known`` is what earlier calls for the same graph found.
    """
    known = known or Known(channel_ids(flow))
    ids = {node: own for node, own in known.ids.items() if node in kept}
    component = components(ids)
    pinned = _pinned(flow, kept, ids, component)
    sets = _reading_sets(flow, kept, ids, component, widen)
    after = _cat_sources(flow, ids, len(component))
    rank = np.full(len(component), -1, dtype=np.int64)
    place = np.empty(len(component), dtype=np.int64)
    unviewable = 0
    for root, members in _members(component):
        channels = _in_base_order(members, after, rank)
        place[channels] = np.arange(len(channels))
        readers = [Reader(_as_mask(place[read], len(channels)), *price) for read, price in sets.get(root, [])]
        if root in pinned:
            order = np.arange(len(channels))
            unviewable += sum(not contiguous(order, reader.channels) for reader in readers)
        else:
            order, copies = _chosen(readers, len(channels), known)
            unviewable += copies
        rank[channels[order]] = np.arange(len(channels))
    return Ranking(ids, rank, unviewable)


def _chosen(readers: list[Reader], count: int, known: Known) -> tuple[Positions, int]:
    """The order of ``count`` channels, and how many readers cannot have a view in any."""
    if not readers:
        return np.arange(count), 0
    key = (count, *((np.packbits(reader.channels).tobytes(), reader.copy, reader.widen) for reader in readers))
    if key not in known.orders:
        known.orders[key] = choose_order(readers, count), copies_lower_bound(readers)
    return known.orders[key]


def _members(component: Positions) -> list[tuple[int, Positions]]:
    """Return every component with its channels, both in ascending order."""
    channels = np.flatnonzero(component >= 0)
    channels = channels[np.argsort(component[channels], kind="stable")]
    roots, starts = np.unique(component[channels], return_index=True)
    return list(zip(roots.tolist(), np.split(channels, starts[1:]), strict=True)) if len(channels) else []


def _reading_sets(
    flow: Dataflow,
    kept: Mapping[fx.Node, Mask],
    ids: Mapping[fx.Node, Positions],
    component: Positions,
    widen: bool,
) -> dict[int, list[tuple[Positions, tuple[float, float]]]]:
    """Per component what is read of its values, where that is not all of a value, and what a copy or widening costs."""
    prices: dict[tuple[fx.Node, bytes], tuple[Positions, float, float]] = {}
    for node, mask in kept.items():
        relation = flow.relations[node]
        if isinstance(relation, Barrier | Source) or node.op == "get_attr":
            continue
        for source, wanted in relation.need(mask, flow.nonzero):
            if source not in ids or not np.any(kept[source] & ~wanted):
                continue
            read = wanted & kept[source]
            copy, wider = read_costs(flow, node, source, (int(read.sum()), int(mask.sum())), widen)
            key = (source, read.tobytes())
            _, known, known_wider = prices.get(key, (read, copy, 0.0))
            prices[key] = (ids[source][read], max(copy, known), wider + known_wider)
    found: dict[int, list[tuple[Positions, tuple[float, float]]]] = {}
    for channels, copy, wider in prices.values():
        roots = component[channels]
        for root in np.unique(roots).tolist():
            found.setdefault(root, []).append((channels[roots == root], (copy, wider)))
    return found


#: Moving one number to memory and back costs about as much as this many multiply-adds.
COPY_COST = 24


def read_costs(
    flow: Dataflow, node: fx.Node, source: fx.Node, counts: tuple[int, int], widen: bool
) -> tuple[float, float]:
    """What ``node`` pays to copy channels of ``source``, and per further channel that it reads instead.

    ``counts`` are the channels read and the outputs they make. In multiply-adds on the larger example graph, so that
    edges weigh more than nodes.
    """
    axes = flow.axes[source]
    rows = float(np.prod([pair[1] for pair, size in zip(axes.pairs, axes.sizes, strict=True) if size is None]))
    return COPY_COST * counts[0] * rows, rows * counts[1] if widen and may_widen(flow, node, source) else inf


def may_widen(flow: Dataflow, node: fx.Node, source: fx.Node) -> bool:
    """Whether an operation can read more than it needs: a linear layer, whose weight gets columns of zeros."""
    relation = flow.relations[node]
    if not isinstance(relation, Contraction) or relation.x is not source:
        return False
    return relation.batch == 1 and relation.weight.op == "get_attr"


def _pinned(
    flow: Dataflow, kept: Mapping[fx.Node, Mask], ids: Mapping[fx.Node, Positions], component: Positions
) -> set[int]:
    """Components that keep their original order, because an input, a barrier or an output holds them in place."""
    holders = set(flow.outputs)
    for node, mask in kept.items():
        relation = flow.relations[node]
        if isinstance(relation, Source):
            holders.add(node)
        elif isinstance(relation, Barrier):
            holders.update((node, *relation.sources))
        elif isinstance(relation, Recurrence):
            holders.update((node, *relation.others))
        elif isinstance(relation, Movement) and relation.how == "entry" and bool(mask.all()):
            holders.add(node)  # nothing to gather, so nothing to reorder either
        elif isinstance(relation, Reduction) and relation.frees and len(flow.axes[relation.source].wide) > 1:
            holders.add(node)  # one result per head, in the order of the heads
    held = [component[ids[node]] for node in holders if node in ids]
    return set(np.unique(np.concatenate(held)).tolist()) if held else set()


def _cat_sources(flow: Dataflow, ids: Mapping[fx.Node, Positions], count: int) -> tuple[Positions, Positions]:
    """For each channel that a concatenation makes: the part it comes from, and the channel it is there; else -1."""
    parts, sources = np.full(count, -1, dtype=np.int64), np.full(count, -1, dtype=np.int64)
    for node, relation in flow.relations.items():
        if isinstance(relation, Movement) and relation.how == "cat" and node in ids:
            for part, f in enumerate(relation.flows):
                if f.source in ids:
                    here = np.flatnonzero(f.index >= 0)
                    channels = ids[node][here]
                    first_seen(channels, ids[f.source][f.index[here]], sources)
                    first_seen(channels, np.full(len(here), part), parts)
    return parts, sources


def _in_base_order(members: Positions, after: tuple[Positions, Positions], rank: Positions) -> Positions:
    """Channels in order of appearance; in a concatenation, those of one part in the order that part already has."""
    part, source = after[0][members], after[1][members]
    of_cat = part >= 0
    ranked = rank[np.maximum(source, 0)]
    within = np.where(ranked >= 0, ranked, source)
    keys = (np.where(of_cat, members, 0), np.where(of_cat, within, members), np.where(of_cat, part, 0))
    return members[np.lexsort(keys)]


def _as_mask(places: Positions, count: int) -> Mask:
    mask = np.zeros(count, dtype=bool)
    mask[places] = True
    return mask
