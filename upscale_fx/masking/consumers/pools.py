"""Pools: sets of channels of which a share is removed, and the channels that are removed together.

Unconstrained, every consumer has its own pool. Constrained, every tensor has one, and a unit is a channel of all its
readers. A pool has one block per head; all heads of a pool lose equally many.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from upscale_fx.channels.positions import Mask, Scores
from upscale_fx.masking.consumers.consumer import Consumer


@dataclass
class Removal:
    """The ``removed`` channels of one consumer, out of the ``eligible`` ones, and the reason why not more."""

    consumer: Consumer
    eligible: Mask
    amount: float
    removed: Mask
    reason: str = ""

    @property
    def asked(self) -> int:
        """How many channels the amount asks to remove, over all heads."""
        blocks = self.consumer.blocks
        if blocks is None:
            return round(self.amount * int(self.eligible.sum()))
        return sum(round(self.amount * int(count)) for count in np.bincount(blocks[self.eligible]))


@dataclass
class Unit:
    """Channels that are removed together: one, or one of each reader; ``members`` are (removal, channel) pairs."""

    score: float
    members: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Pool:
    """Units of which a share is removed, in one block per head; all are of one consumer or one tied group."""

    amount: float
    blocks: list[list[Unit]]


def own_pools(removals: Sequence[Removal], scores: Sequence[Scores]) -> list[Pool]:
    """One pool per consumer: unconstrained.

    States of recurrent modules go only if nothing reads them: their readers share one set.
    """
    states = {i for removal in removals if removal.consumer.recurrent for i in removal.consumer.channels.tolist()}
    pools = shared_pools(removals, scores, only=states) if states else []
    for number, removal in enumerate(removals):
        blocks = removal.consumer.blocks
        by_block: dict[int, list[Unit]] = {}
        for channel in np.flatnonzero(removal.eligible).tolist():
            if int(removal.consumer.channels[channel]) in states:
                continue
            block = int(blocks[channel]) if blocks is not None else 0
            by_block.setdefault(block, []).append(Unit(float(scores[number][channel]), [(number, channel)]))
        if by_block:
            pools.append(Pool(removal.amount, list(by_block.values())))
    return pools


def shared_pools(
    removals: Sequence[Removal], scores: Sequence[Scores], partly: bool = False, only: Collection[int] | None = None
) -> list[Pool]:
    """One pool per tensor: all its consumers share one set, without the channels that one of them must keep.

    With ``partly`` there are also units of channels that only some readers can lose: of those readers.
    ``only`` are the identities of the channels that are looked at; None: all.
    """
    readers: dict[int, list[tuple[int, int]]] = {}
    place: dict[int, tuple[int, int]] = {}
    for number, removal in enumerate(removals):
        consumer = removal.consumer
        for channel, identity in enumerate(consumer.channels.tolist()):
            readers.setdefault(identity, []).append((number, channel))
            block = int(consumer.blocks[channel]) if consumer.blocks is not None else 0
            home = int(consumer.homes[channel])
            known = place.get(identity)
            place[identity] = (home, block if known is None else max(block, known[1]))
    pools: dict[int, dict[int, list[Unit]]] = {}
    amounts: dict[int, float] = {}
    for identity, reading in readers.items():
        if only is not None and identity not in only:
            continue
        members = [(number, channel) for number, channel in reading if removals[number].eligible[channel]]
        if not members or (len(members) < len(reading) and not partly):
            continue
        home, block = place[identity]
        scale = [scores[n][c] / max(float(np.mean(scores[n])), 1e-300) for n, c in members]
        pools.setdefault(home, {}).setdefault(block, []).append(Unit(float(sum(scale)), list(members)))
        least = min(removals[number].amount for number, _ in members)
        amounts[home] = min(amounts.get(home, 1.0), least)
    return [Pool(amounts[home], list(blocks.values())) for home, blocks in pools.items()]


def select(pools: Sequence[Pool], round_to: int) -> list[Unit]:
    """The units to remove: of every block the share of its pool's amount, lowest scores first."""
    chosen = []
    for pool in pools:
        for block in pool.blocks:
            chosen += lowest(block, removable(len(block), pool.amount, round_to))
    return chosen


def removable(count: int, amount: float, round_to: int = 1) -> int:
    """How many of ``count`` channels are removed: a share, never all; the rest is a multiple of ``round_to``."""
    kept = max(count - round(amount * count), 1)
    kept = min(math.ceil(kept / round_to) * round_to, count)
    return count - kept


def lowest(units: Sequence[Unit], count: int) -> list[Unit]:
    """The units with the lowest scores; of equal ones the first."""
    order = sorted(range(len(units)), key=lambda i: (units[i].score, i))
    return [units[i] for i in order[:count]]


def select_global(pools: Sequence[Pool], round_to: int) -> list[Unit]:
    """The units with the lowest scores of all pools; a pool loses one unit of each head at a time."""
    slots: list[tuple[float, int, int, list[Unit]]] = []
    target = 0.0
    for number, pool in enumerate(pools):
        ranked = [lowest(block, len(block)) for block in pool.blocks]
        shortest = min(len(block) for block in ranked)
        target += pool.amount * sum(len(block) for block in ranked)
        if pool.amount > 0:
            for k in range(shortest - 1):  # never the last one
                together = [block[k] for block in ranked]
                slots.append((sum(u.score for u in together) / len(together), number, k, together))
    budget = round(target)
    chosen: dict[int, list[list[Unit]]] = {}
    for _, number, _, together in sorted(slots, key=lambda slot: slot[:3]):
        if len(together) <= budget:
            budget -= len(together)
            chosen.setdefault(number, []).append(together)
    result: list[Unit] = []
    for number, groups in chosen.items():
        count = min(len(block) for block in pools[number].blocks)
        kept = min(math.ceil((count - len(groups)) / round_to) * round_to, count)
        result += [unit for together in groups[: count - kept] for unit in together]
    return result
