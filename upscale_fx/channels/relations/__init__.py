"""The relations an operation can be between positions, and the questions answered from them.

Every operation is described once, as one of these. Three questions are answered from it: ``nonzero`` (forward: which
result positions may differ from zero), ``need`` (backward: which positions of the sources the needed result positions
read) and ``ties`` (which positions are the same channel). Rewriting reads the same fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import fx

from upscale_fx.channels.positions import Flow, Mask, Masks, Positions


class Relation:
    """What an operation does to channels. ``reads`` are the sources whose channels it sees."""

    reason = ""

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        """Sources whose channels matter."""
        return ()

    def nonzero(self, count: int, nonzero: Masks) -> Mask:
        """Which of ``count`` result positions may be other than zero."""
        return np.ones(count, dtype=bool)

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        """For each source, the positions that the needed result positions read."""
        return iter(())

    def ties(self) -> Iterator[Flow]:
        """Flows along which a channel stays the same channel and keeps its place in the order."""
        return iter(())


@dataclass(frozen=True)
class Source(Relation):
    """A placeholder, parameter, buffer, or a tensor made from sizes alone; ``zero`` if it holds nothing but zeros."""

    zero: bool = False

    def nonzero(self, count: int, nonzero: Masks) -> Mask:
        return np.full(count, not self.zero)


@dataclass(frozen=True)
class Structure(Relation):
    """Reads no channel: sizes, dtypes, anything that is not a tensor."""


Zero = Literal["all", "any", "first", "never"]


@dataclass(frozen=True)
class Pointwise(Relation):
    """Position to position, with broadcasting: activations, sums, products, row gathers and aggregations.

    ``zero`` says when a result position is zero for sure: if all operands are (add, relu), if any is (mul), if the
    first is (div), or never (sigmoid). ``module`` names a per-channel module whose parameters follow the layout on
    axis 1.
    """

    flows: tuple[Flow, ...]
    zero: Zero = "all"
    module: str | None = None
    always_zero: Mask | None = field(default=None, compare=False)

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        return tuple(flow.source for flow in self.flows)

    def nonzero(self, count: int, nonzero: Masks) -> Mask:
        if self.zero == "never":
            return np.ones(count, dtype=bool) if self.always_zero is None else ~self.always_zero
        operands = [nonzero[flow.source][flow.index] for flow in self.flows]
        if self.zero == "first":
            return operands[0]
        join = np.logical_and if self.zero == "any" else np.logical_or
        found: Mask = join.reduce(operands)
        return found

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        # Also where another factor is zero: the op runs on whole layouts, and zero results are not asked for anyway.
        for flow in self.flows:
            yield flow.source, hit(flow.index[needed], len(nonzero[flow.source]))

    def ties(self) -> Iterator[Flow]:
        return (flow for flow in self.flows if flow.is_one_to_one)


Move = Literal["reshape", "same", "rows", "pick", "cat", "stack", "entry"]


@dataclass(frozen=True)
class Movement(Relation):
    """Positions move, values stay: views, permutations, slices, gathers of rows, cat, stack.

    ``how`` tells the rewriter which form keeps views free; ``axis`` is that of cat and stack.
    """

    flows: tuple[Flow, ...]
    how: Move
    axis: int = 0

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        return tuple(flow.source for flow in self.flows)

    def nonzero(self, count: int, nonzero: Masks) -> Mask:
        found = np.zeros(count, dtype=bool)
        for flow in self.flows:
            here = flow.index >= 0
            found[here] |= nonzero[flow.source][flow.index[here]]
        return found

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        for flow in self.flows:
            yield flow.source, hit(flow.index[needed & (flow.index >= 0)], len(nonzero[flow.source]))

    def ties(self) -> Iterator[Flow]:
        # cat copies anyway and so may reorder for free; an entry gather is there to reorder.
        if self.how in ("cat", "entry"):
            return iter(())
        return (flow for flow in self.flows if flow.is_one_to_one)


@dataclass(frozen=True)
class Reduction(Relation):
    """A reduction over channel axes: ``index`` maps source positions to result positions.

    Sums and means are contractions: zero channels need not be read. Maxima need every position of a fibre.
    """

    source: fx.Node
    index: Positions
    how: Literal["sum", "mean", "max", "norm"]
    axes: tuple[int, ...]
    keep: bool
    frees: bool

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        return (self.source,)

    def nonzero(self, count: int, nonzero: Masks) -> Mask:
        return hit(self.index[nonzero[self.source]], count)

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        wanted = needed[self.index]
        if self.how != "max":
            fed = hit(self.index[wanted & nonzero[self.source]], len(needed))
            empty = np.flatnonzero(needed & ~fed)  # a sum over nothing still has to exist: keep one zero channel
            wanted &= nonzero[self.source]
            wanted[[int(np.argmax(self.index == p)) for p in empty]] = True
        yield self.source, wanted


@dataclass(frozen=True)
class Contraction(Relation):
    """``x [.., L, I]`` times ``weight``: ``[O, I]`` (linear) or ``[I, O]`` (``transposed``: matmul), plus ``bias [O]``.

    ``batch`` is the number of position combinations of the axes before the last (``L``).
    """

    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    batch: int
    transposed: bool

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        return tuple(n for n in (self.x, self.weight, self.bias) if n is not None)

    def matrix(self, nonzero: Masks, outputs: int) -> Mask:
        """The weight's may-be-non-zero pattern as ``[O, I]``."""
        pattern = nonzero[self.weight]
        return pattern.reshape(-1, outputs).T if self.transposed else pattern.reshape(outputs, -1)

    def nonzero(self, count: int, nonzero: Masks) -> Mask:
        outputs = count // self.batch
        x = nonzero[self.x].reshape(self.batch, -1)
        found = (x.astype(np.float32) @ self.matrix(nonzero, outputs).T.astype(np.float32)) > 0
        if self.bias is not None:
            found = found | nonzero[self.bias]
        return found.reshape(-1)

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        outputs = len(needed) // self.batch
        wanted: Mask = needed.reshape(self.batch, outputs)
        asked: Mask = np.logical_or.reduce(wanted, axis=0)
        x, pattern = nonzero[self.x].reshape(self.batch, -1), self.matrix(nonzero, outputs)
        reads: Mask = x & ((wanted.astype(np.float32) @ pattern.astype(np.float32)) > 0)
        starved = wanted.any(axis=1) & ~reads.any(axis=1)
        reads[starved, 0] = True  # only the bias is left; the rows still have to come from somewhere
        if self.batch > 1:  # one weight for all: every batch combination reads the same inputs
            reads = np.logical_or.reduce(wanted, axis=1)[:, None] & np.logical_or.reduce(reads, axis=0)[None]
        yield self.x, reads.reshape(-1)
        weight: Mask = asked[:, None] & np.logical_or.reduce(reads, axis=0)[None]
        yield self.weight, (weight.T if self.transposed else weight).reshape(-1)
        if self.bias is not None:
            yield self.bias, asked


@dataclass(frozen=True)
class OneOfSeveral(Relation):
    """Result position ``p`` holds one of the source's positions ``index[:, p]``; which one depends on the row."""

    source: fx.Node
    index: Positions

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        return (self.source,)

    def nonzero(self, count: int, nonzero: Masks) -> Mask:
        found: Mask = np.logical_or.reduce(nonzero[self.source][self.index], axis=0)
        return found

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        yield self.source, hit(self.index[:, needed].reshape(-1), len(nonzero[self.source]))

    def ties(self) -> Iterator[Flow]:
        return (Flow(self.source, row) for row in self.index)


@dataclass(frozen=True)
class Barrier(Relation):
    """An op whose channels all stay, in place; ``reason`` says why in words."""

    sources: tuple[fx.Node, ...]
    reason: str = "no channel rule"

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        return self.sources

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        for source in self.sources:
            yield source, np.ones(len(nonzero[source]), dtype=bool)


def hit(index: Positions, count: int) -> Mask:
    """A mask over ``count`` positions that is true at ``index``."""
    found = np.zeros(count, dtype=bool)
    found[index] = True
    return found
