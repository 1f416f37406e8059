"""Reads: for every channel of a tensor, the consumers that read it and the layers that make it.

A *slot* is a channel, or one channel of each head, which are removed together. A *read* is one consumer's reading of a
slot: dropping it saves its column of the consumer's weight. A *row* is the rows of one layer's weight that make a slot:
they are dead as soon as no live read needs them. That can be before the last read of the slot is dropped: GATv2's
attention needs the outputs of both of its layers for a channel, the layer after it those of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.identity import channel_ids
from upscale_fx.channels.positions import Mask, Numbers, Positions
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.masking.consumers.pools import Pool, Removal, Unit


@dataclass
class Reads:
    """All reads of a model.

    Attributes:
        members: for each read its (consumer, channel) pairs.
        slot: ``[R]``, the slot of each read.
        consumer: ``[R]``, its consumer.
        sizes: ``[R]``, its number of channels.
        ids: for each slot the identities of its channels.
        free: ``[S]``, whether only consumers read the slot, and all of its channels are eligible.
        outputs: ``[C]``, the number of output channels of each consumer; 0 for vectors and products, which make logits.
        rows: the rows of all slots.
    """

    members: list[list[tuple[int, int]]]
    slot: Positions
    consumer: Positions
    sizes: Positions
    ids: list[list[int]]
    free: Mask
    outputs: Numbers
    rows: WeightRows

    @property
    def units(self) -> list[Unit]:
        """The reads as units of choice."""
        return [Unit(0.0, members) for members in self.members]

    @property
    def all(self) -> Mask:
        """``[R]``: every read."""
        return np.ones(len(self.slot), dtype=bool)

    def removed(self, alive: Mask, consumers: Sequence[Consumer]) -> list[Mask]:
        """For each consumer the removed channels, given the live reads ``[R]``."""
        masks = [np.zeros(consumer.count, dtype=bool) for consumer in consumers]
        for read in np.flatnonzero(~alive).tolist():
            for number, channel in self.members[read]:
                masks[number][channel] = True
        return masks

    def left_by(self, steps: Iterable[Sequence[int]]) -> Mask:
        """``[R]``: the live reads after some steps."""
        alive = self.all
        for step in steps:
            alive[np.asarray(step, dtype=np.int64)] = False
        return alive


@dataclass
class WeightRows:
    """The rows of layers' weights that make slots.

    Attributes:
        slot: ``[K]``, the slot that each row makes.
        maker: ``[K]``, the consumer whose outputs these are.
        sizes: ``[K]``, the number of outputs.
        read: ``[P]``, for each pair of a read and a row that it needs, the read.
        needed: ``[P]``, the row of each pair.
    """

    slot: Positions
    maker: Positions
    sizes: Positions
    read: Positions
    needed: Positions

    def readers(self, alive: Mask) -> Positions:
        """``[K]``: how many live reads need each row."""
        return np.bincount(self.needed[alive[self.read]], minlength=len(self.slot))


def find_reads(flow: Dataflow, removals: Sequence[Removal], pools: Sequence[Pool], held: set[int]) -> Reads:
    """The reads of all eligible channels.

    Args:
        flow: the analysed graph.
        removals: the eligible channels of each consumer.
        pools: one pool per tensor, with scores by which channels of different heads are paired.
        held: identities of channels that something other than a consumer reads.
    """
    members: list[list[tuple[int, int]]] = []
    slot: list[int] = []
    ids: list[list[int]] = []
    free: list[bool] = []
    readers: dict[int, set[int]] = {}
    for number, removal in enumerate(removals):
        for identity in removal.consumer.channels.tolist():
            readers.setdefault(identity, set()).add(number)
    for together in _slots(pools):
        pairs = [pair for unit in together for pair in unit.members]
        own = sorted({int(removals[n].consumer.channels[c]) for n, c in pairs})
        by_consumer: dict[int, list[tuple[int, int]]] = {}
        for pair in pairs:
            by_consumer.setdefault(pair[0], []).append(pair)
        free.append(not held.intersection(own) and all(readers[i] <= by_consumer.keys() for i in own))
        ids.append(own)
        for group in by_consumer.values():
            members.append(group)
            slot.append(len(ids) - 1)
    consumer = np.array([group[0][0] for group in members], dtype=np.int64)
    sizes = np.array([len(group) for group in members], dtype=np.int64)
    slots = np.array(slot, dtype=np.int64)
    known = channel_ids(flow, through_cat=True)
    outputs = _outputs(known, removals)
    needing = _needing(known, [removal.consumer for removal in removals], outputs)
    rows = _rows(needing, ids, outputs, slots, consumer)
    return Reads(members, slots, consumer, sizes, ids, np.array(free), np.array([float(len(o)) for o in outputs]), rows)


def _slots(pools: Sequence[Pool]) -> list[list[Unit]]:
    """Units that are removed together: one, or the k-th by score of every head."""
    slots = []
    for pool in pools:
        ranked = [sorted(block, key=lambda unit: unit.score) for block in pool.blocks]
        slots += [list(together) for together in zip(*ranked, strict=False)]
    return slots


def _outputs(ids: Mapping[fx.Node, Positions], removals: Sequence[Removal]) -> list[Positions]:
    """For each consumer the identities of its outputs.

    Empty for vectors and products, whose outputs are logits, and for a layer whose several calls make different
    channels: there, a row of the weight is needed as long as one call needs it.
    """
    outputs = []
    for removal in removals:
        own = [ids[site] for site in removal.consumer.sites if site in ids]
        one = bool(own) and all(np.array_equal(other, own[0]) for other in own[1:])
        outputs.append(own[0] if one and removal.consumer.kind == "weight" else np.empty(0, dtype=np.int64))
    return outputs


def _rows(
    needing: Sequence[set[int]],
    ids: Sequence[Sequence[int]],
    outputs: Sequence[Positions],
    slot: Positions,
    consumer: Positions,
) -> WeightRows:
    """The rows of all slots, and which reads need them."""
    place = {identity: s for s, own in enumerate(ids) for identity in own}
    counts: dict[tuple[int, int], int] = {}
    for number, made_here in enumerate(outputs):
        for identity in made_here.tolist():
            if identity in place:
                key = (place[identity], number)
                counts[key] = counts.get(key, 0) + 1
    by_slot: dict[int, list[tuple[int, int]]] = {}
    for row, (s, maker) in enumerate(counts):
        by_slot.setdefault(s, []).append((row, maker))
    pairs = [
        (read, row)
        for read, (s, reader) in enumerate(zip(slot.tolist(), consumer.tolist(), strict=True))
        for row, maker in by_slot.get(s, ())
        if reader in needing[maker]
    ]
    keys = np.array(list(counts), dtype=np.int64).reshape(-1, 2)
    needs = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return WeightRows(keys[:, 0], keys[:, 1], np.array(list(counts.values()), dtype=np.int64), needs[:, 0], needs[:, 1])


def _needing(
    ids: Mapping[fx.Node, Positions], consumers: Sequence[Consumer], outputs: Sequence[Positions]
) -> list[set[int]]:
    """For each consumer the consumers that read its output channels, followed from value to value."""
    owner: dict[fx.Node, list[int]] = {}
    # Readers inside of recurrent modules, by the result that shows what they read.
    inside: dict[fx.Node, set[int]] = {}
    for number, consumer in enumerate(consumers):
        for site in consumer.sites:
            owner.setdefault(site, []).append(number)
        for reading in consumer.readings if consumer.recurrent else ():
            inside.setdefault(reading.node, set()).add(number)
    needing: list[set[int]] = []
    for consumer, made in zip(consumers, outputs, strict=True):
        seen: set[fx.Node] = set()
        reached: set[int] = set().union(*(inside.get(site, set()) for site in consumer.sites))
        stack = [user for site in consumer.sites for user in site.users]
        while stack:
            node = stack.pop()
            if node in owner:
                reached.update(owner[node])
            elif node not in seen and node in ids and np.isin(ids[node], made).any():
                stack += node.users
            seen.add(node)
        needing.append(reached)
    return needing
