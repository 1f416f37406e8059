"""Relations: how the positions of an operation's result depend on the positions of its operands.

Every operation is described by one relation. It answers three questions: ``nonzero`` (forward: which result positions
may differ from zero), ``need`` (backward: which source positions the needed result positions read) and ``ties`` (which
positions are the same channel). Rewriting reads the same fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import fx

from upscale_fx.channels.positions import Flow, Mask, Masks, Positions, boolean_product


class Relation:
    """How an operation maps channels of its sources to channels of its result."""

    reason = ""

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        """The sources whose channels it reads."""
        return ()

    def nonzero(self, count: int, nonzero: Masks) -> Mask:
        """Return which of ``count`` result positions may differ from zero."""
        return np.ones(count, dtype=bool)

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        """Yield for each source the positions that the needed result positions read."""
        return iter(())

    def ties(self) -> Iterator[Flow]:
        """Yield the flows that keep channels and their order."""
        return iter(())


@dataclass(frozen=True)
class Source(Relation):
    """A placeholder, parameter, buffer, or a tensor made from sizes alone; ``zero`` if all its entries are zero."""

    zero: bool = False

    def nonzero(self, count: int, nonzero: Masks) -> Mask:
        return np.full(count, not self.zero)


@dataclass(frozen=True)
class Structure(Relation):
    """An operation that reads no channel: sizes, dtypes, everything that is not a tensor."""


Zero = Literal["all", "any", "first", "never"]


@dataclass(frozen=True)
class Pointwise(Relation):
    """Position to position, with broadcasting: activations, sums, products, row gathers and aggregations.

    ``zero`` says when a result position is certainly zero: if all operands are zero (add, relu), if any is (mul), if
    the first is (div), or never (sigmoid). ``module`` names a per-channel module; its parameters follow the layout of
    axis 1. ``always_zero`` marks result positions that are zero for any input.
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
        result: Mask = join.reduce(operands)
        return result

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        # Not less where another factor is zero: the operation runs on whole layouts, and nothing reads zero results.
        for flow in self.flows:
            yield flow.source, hit(flow.index[needed], len(nonzero[flow.source]))

    def ties(self) -> Iterator[Flow]:
        return (flow for flow in self.flows if flow.is_one_to_one)


Move = Literal["reshape", "same", "rows", "pick", "cat", "stack", "entry", "place"]


@dataclass(frozen=True)
class Movement(Relation):
    """Positions move, values do not change: views, permutations, slices, gathers of rows, cat, stack.

    ``how`` tells the rewriter which form keeps views free of copies; ``axis`` is the axis of cat and stack.
    """

    flows: tuple[Flow, ...]
    how: Move
    axis: int = 0

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        return tuple(flow.source for flow in self.flows)

    def nonzero(self, count: int, nonzero: Masks) -> Mask:
        result = np.zeros(count, dtype=bool)
        for flow in self.flows:
            filled = flow.index >= 0
            result[filled] |= nonzero[flow.source][flow.index[filled]]
        return result

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        for flow in self.flows:
            yield flow.source, hit(flow.index[needed & (flow.index >= 0)], len(nonzero[flow.source]))

    def ties(self) -> Iterator[Flow]:
        # cat copies in any case, so it reorders at no cost; entries and placings exist to reorder.
        if self.how in ("cat", "entry", "place"):
            return iter(())
        return (flow for flow in self.flows if flow.is_one_to_one)


@dataclass(frozen=True)
class Reduction(Relation):
    """A reduction over channel axes.

    Sums, means and norms do not read zero channels. A maximum reads all positions that it reduces to one.

    Attributes:
        source: the operand.
        index: for every source position, its result position.
        how: the kind of reduction.
        axes: the reduced axes.
        keep: whether they stay, with size 1.
        frees: whether the reduced channels may have any order: the last channel axis is reduced, and not by a maximum.
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
        reads = needed[self.index]
        if self.how != "max":
            nonempty = hit(self.index[reads & nonzero[self.source]], len(needed))
            empty = np.flatnonzero(needed & ~nonempty)  # a sum needs at least one operand: read one zero channel
            reads &= nonzero[self.source]
            first = np.zeros(len(needed), dtype=np.int64)
            first[self.index[::-1]] = np.arange(len(self.index) - 1, -1, -1)  # what is written last stays
            reads[first[empty]] = True
        yield self.source, reads


@dataclass(frozen=True)
class Contraction(Relation):
    """``x [.., L, I]`` times ``weight``: ``[O, I]`` (linear) or ``[I, O]`` (``transposed``: matmul), plus ``bias [O]``.

    ``batch`` is the number of positions of the axes before the last together (``L``).
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
        """Return which entries of the weight may differ from zero, as ``[O, I]``."""
        pattern = nonzero[self.weight]
        return pattern.reshape(-1, outputs).T if self.transposed else pattern.reshape(outputs, -1)

    def nonzero(self, count: int, nonzero: Masks) -> Mask:
        outputs = count // self.batch
        x = nonzero[self.x].reshape(self.batch, -1)
        result = boolean_product(x, self.matrix(nonzero, outputs).T)
        if self.bias is not None:
            result = result | nonzero[self.bias]
        return result.reshape(-1)

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        outputs = len(needed) // self.batch
        needed_rows: Mask = needed.reshape(self.batch, outputs)
        outputs_needed: Mask = np.logical_or.reduce(needed_rows, axis=0)
        x, pattern = nonzero[self.x].reshape(self.batch, -1), self.matrix(nonzero, outputs)
        reads: Mask = x & boolean_product(needed_rows, pattern)
        starved = needed_rows.any(axis=1) & ~reads.any(axis=1)
        reads[starved, 0] = True  # only the bias is left, but the call needs a column to take its rows from
        if self.batch > 1:  # all batch positions share one weight, so they read the same inputs
            reads = np.logical_or.reduce(needed_rows, axis=1)[:, None] & np.logical_or.reduce(reads, axis=0)[None]
        yield self.x, reads.reshape(-1)
        weight: Mask = outputs_needed[:, None] & np.logical_or.reduce(reads, axis=0)[None]
        yield self.weight, (weight.T if self.transposed else weight).reshape(-1)
        if self.bias is not None:
            yield self.bias, outputs_needed


@dataclass(frozen=True)
class OneOfSeveral(Relation):
    """Result position ``p`` reads one of the source positions ``index[:, p]``; which one depends on the row."""

    source: fx.Node
    index: Positions

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        return (self.source,)

    def nonzero(self, count: int, nonzero: Masks) -> Mask:
        result: Mask = np.logical_or.reduce(nonzero[self.source][self.index], axis=0)
        return result

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        yield self.source, hit(self.index[:, needed].reshape(-1), len(nonzero[self.source]))

    def ties(self) -> Iterator[Flow]:
        return (Flow(self.source, row) for row in self.index)


@dataclass(frozen=True)
class Barrier(Relation):
    """An operation that keeps all channels of its operands, in place; ``reason`` says why."""

    sources: tuple[fx.Node, ...]
    reason: str = "no channel rule"

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        return self.sources

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        for source in self.sources:
            yield source, np.ones(len(nonzero[source]), dtype=bool)


def hit(index: Positions, count: int) -> Mask:
    """Return a mask over ``count`` positions that is True at ``index``."""
    mask = np.zeros(count, dtype=bool)
    mask[index] = True
    return mask
