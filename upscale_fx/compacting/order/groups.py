"""Readers of channels, and the groups of them that have to share one order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import inf, isfinite

import numpy as np
import numpy.typing as npt

from upscale_fx.channels.positions import Mask, Positions
from upscale_fx.compacting.order.consecutive import overlap_components
from upscale_fx.compacting.order.pq_tree import as_bits, bits_of

Costs = npt.NDArray[np.float64]
Line = tuple[float, float]  # what is paid once, and per channel in the gap


@dataclass(frozen=True, eq=False)
class Reader:
    """One reader of some of the channels, and what it pays where they are not contiguous.

    That is ``min(copy, widen * gap)``, where ``gap`` counts the other channels between its first and its last one.
    """

    channels: Mask
    copy: float = 1.0
    widen: float = inf

    def __post_init__(self) -> None:
        if not (isfinite(self.copy) and self.copy >= 0 and self.widen >= 0):
            raise ValueError(f"costs must not be negative, and copy finite: copy={self.copy}, widen={self.widen}")


def as_reader(reader: Reader | Mask) -> Reader:
    """A plain mask as the reader it stands for."""
    return reader if isinstance(reader, Reader) else Reader(reader)


@dataclass(frozen=True, eq=False)
class Group:
    """Distinct readers that overlap one another, over weighted atoms."""

    atoms: list[int]  # which channels: bits
    weights: Positions  # [atoms]: how many
    inside: Mask  # [readers, atoms]
    lines: list[list[Line]]  # what a reader pays is the least of its lines

    @cached_property
    def sets(self) -> list[int]:
        """The readers as bits over atoms."""
        return [as_bits(row) for row in self.inside]

    @cached_property
    def prices(self) -> Costs:
        """What each reader pays for each gap: [readers, gaps], concave and 0 without a gap."""
        gaps = np.arange(int(self.weights.sum()) + 1)
        return np.array([np.min([once + each * gaps for once, each in lines], axis=0) for lines in self.lines])

    @cached_property
    def penalties(self) -> Costs:
        """What each reader pays at least where it is not contiguous: something else, the lightest atom, is inside."""
        lightest = np.where(self.inside, self.weights.sum(), self.weights).min(axis=1)
        return np.take_along_axis(self.prices, lightest[:, None], axis=1)[:, 0]

    def paid(self, order: Sequence[int]) -> Costs:
        """What each reader pays in an order of the atoms."""
        inside = self.inside[:, order]
        before = np.concatenate([[0], np.cumsum(self.weights[np.asarray(order)])])
        first, end = inside.argmax(axis=1), len(order) - inside[:, ::-1].argmax(axis=1)
        gaps = before[end] - before[first] - self.inside @ self.weights
        return np.take_along_axis(self.prices, gaps[:, None], axis=1)[:, 0]

    def cost(self, order: Sequence[int]) -> float:
        """What all readers pay in an order of the atoms."""
        return float(self.paid(order).sum())

    def constraints(self, order: Sequence[int]) -> Iterator[int]:
        """Sets of channels that cost no more than ``order`` in every order in which they are contiguous."""
        paid = self.paid(order)
        for row in self.inside[paid == 0]:
            yield sum(atom for atom, inside in zip(self.atoms, row, strict=True) if inside)
        if np.any((paid > 0) & (paid < self.prices[:, -1])):  # widened: every place counts
            yield from self.atoms
            for left, right in pairwise(order):
                yield self.atoms[left] | self.atoms[right]


def groups_of(readers: Sequence[Reader | Mask]) -> list[Group]:
    """The readers that can disagree at all, equal ones as one, in groups that can be ordered independently."""
    equal: dict[int, list[Reader]] = {}
    for reader in map(as_reader, readers):
        if reader.copy > 0 and reader.widen > 0 and reader.channels.sum() > 1:
            # A gap holds at least one channel, so that a dearer widening is never chosen.
            equal.setdefault(as_bits(reader.channels), []).append(replace(reader, widen=min(reader.widen, reader.copy)))
    # Of readers that are otherwise alike, those that can read views in the original order come first.
    sets = sorted(equal, key=lambda bits: (bits.bit_length() - (bits & -bits).bit_length() - bits.bit_count(), bits))
    groups = [[equal[sets[i]] for i in indices] for indices in overlap_components(sets)]
    return [_group(group) for group in groups]


def _group(readers: list[list[Reader]]) -> Group:
    masks = np.array([equal[0].channels for equal in readers])
    channels = np.flatnonzero(masks.any(axis=0))
    columns = np.ascontiguousarray(np.packbits(masks[:, channels], axis=0).T)  # one line of bytes per channel
    kinds, first, kind = np.unique(columns.view(f"V{columns.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    appearance = np.empty(len(kinds), dtype=np.int64)
    appearance[np.argsort(first)] = np.arange(len(kinds))
    kind = appearance[kind.reshape(-1)]
    by_kind, weights = channels[np.argsort(kind, kind="stable")], np.bincount(kind)
    return Group(
        atoms=[bits_of(atom) for atom in np.split(by_kind, np.cumsum(weights)[:-1])],
        weights=weights.astype(np.int64),
        inside=masks[:, channels[np.sort(first)]],
        lines=[_lines(equal) for equal in readers],
    )


def _lines(readers: list[Reader]) -> list[Line]:
    """What readers of equal sets pay: first all of them widen, with larger gaps more and more of them copy."""
    turns = sorted((reader.copy / reader.widen, reader.copy, reader.widen) for reader in readers)
    copying = [0, *(i for i in range(1, len(turns) + 1) if i == len(turns) or turns[i - 1][0] < turns[i][0])]
    return [(sum(turn[1] for turn in turns[:i]), sum(turn[2] for turn in turns[i:])) for i in copying]
