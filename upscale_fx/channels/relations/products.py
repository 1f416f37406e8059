"""Relations of products in which no side is a 2-D weight: einsum, bmm, weights gathered by relation, RNNs.

The axes of both operands and of the result have letters, as in einsum. An axis is *batch* if its letter is in both
operands and the result, *left* or *right* if it is in one operand and the result, *inner* if it is in both operands and
summed over. With axes in this order, the positions of the left operand are ``[B, L, K]``, those of the right operand
``[B, K, R]``, those of the result ``[B, L, R]``. Row axes have one position, so a row axis may be of any kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from torch import fx

from upscale_fx.channels.positions import Axes, Mask, Masks, Positions, boolean_product
from upscale_fx.channels.relations import Movement, OneOfSeveral, Relation, hit


class Analysed(Protocol):
    """The analysis of a graph: the relation and the axes of every node."""

    relations: dict[fx.Node, Relation]
    axes: dict[fx.Node, Axes]


@dataclass(frozen=True)
class Product(Relation):
    """The sum of ``left * right`` over the inner letters.

    Attributes:
        left: the first operand.
        right: the second operand.
        letters: for left, right and result, one letter per axis.
        shapes: for left, right and result, the sizes with 1 for row axes.
    """

    left: fx.Node
    right: fx.Node
    letters: tuple[str, str, str]
    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        return (self.left, self.right)

    @cached_property
    def groups(self) -> tuple[str, str, str, str]:
        """The batch, left, right and inner letters."""
        left, right, result = self.letters
        return (
            "".join(a for a in result if a in left and a in right),
            "".join(a for a in result if a in left and a not in right),
            "".join(a for a in result if a not in left and a in right),
            "".join(a for a in left if a in right and a not in result),
        )

    @cached_property
    def positions(self) -> tuple[Positions, Positions, Positions]:
        """Positions of the operands and the result as ``[B, L, K]``, ``[B, K, R]`` and ``[B, L, R]``."""
        batch, left, right, inner = self.groups
        orders = ((batch, left, inner), (batch, inner, right), (batch, left, right))
        return tuple(self._arranged(place, order) for place, order in enumerate(orders))  # type: ignore[return-value]

    def _arranged(self, place: int, order: Sequence[str]) -> Positions:
        """Return the positions of one value with its letters in this order; letters that only it has come last."""
        letters, shape = self.letters[place], self.shapes[place]
        joined = "".join(order)
        others = [axis for axis, letter in enumerate(letters) if letter not in joined]
        axes = [*(letters.index(letter) for letter in joined), *others]
        sizes = [int(np.prod([shape[letters.index(a)] for a in group], dtype=np.int64)) for group in order]
        everything = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.int64).reshape(shape)
        return everything.transpose(axes).reshape(sizes)

    def nonzero(self, count: int, nonzero: Masks) -> Mask:
        left, right, result = self.positions
        reached = np.zeros(count, dtype=bool)
        reached[result] = boolean_product(nonzero[self.left][left], nonzero[self.right][right])
        return reached

    def inner(self, needed: Mask, nonzero: Masks) -> Mask:
        """Return the inner positions ``[B, K]`` that needed results ``[B, L, R]`` read; at least one where any is."""
        left, right, _ = self.positions
        a, b = nonzero[self.left][left], nonzero[self.right][right]
        reads: Mask = np.logical_or.reduce(a & boolean_product(needed, b.transpose(0, 2, 1)), axis=1)
        starved = needed.any(axis=(1, 2)) & ~reads.any(axis=1)
        reads[starved, 0] = True  # the result is zero, but the call needs a column to take its rows from
        return reads

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        left, right, result = self.positions
        needed_results: Mask = needed[result]
        inner = self.inner(needed_results, nonzero)
        left_reads = np.logical_or.reduce(needed_results, axis=2)[:, :, None] & inner[:, None, :]
        right_reads = inner[:, :, None] & np.logical_or.reduce(needed_results, axis=1)[:, None, :]
        yield self.left, hit(left[left_reads], len(nonzero[self.left]))
        yield self.right, hit(right[right_reads], len(nonzero[self.right]))


@dataclass(frozen=True)
class Lookup(OneOfSeveral):
    """Rows of a table, selected by a computed index: embeddings, a weight gathered by edge type.

    Result position ``p`` reads one of the table positions ``index[:, p]``; which one depends on the row. ``axis`` is
    the indexed axis of the table.
    """

    axis: int


@dataclass(frozen=True)
class Recurrence(Relation):
    """A recurrent module (LSTM, GRU, RNN) on ``x [.., I]``: columns of its input weights may go.

    Its states go before a graph is rewritten, by a smaller module (``compacting.states``); a rewrite keeps them all.
    States are numbered as in ``channels.recurrent``.

    Attributes:
        x: the sequence.
        others: initial states, of which the channels of live states are read.
        module: path of the module.
        weights: names of the parameters ``[gates * H, I]`` that multiply ``x``.
        columns: which columns of these may differ from zero.
        call: the call of the module.
        states: the number of the state at every position of the result; None where they are unknown.
        initial: for each of ``others`` the number of the state at every position.
        reason: why all states stay; empty where they may go.
        live: which states are read; None: all.
    """

    x: fx.Node
    others: tuple[fx.Node, ...]
    module: str
    weights: tuple[str, ...]
    columns: Mask
    call: fx.Node
    states: Positions | None = None
    initial: tuple[Positions, ...] = ()
    reason: str = ""
    live: Mask | None = None

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        return (self.x, *self.others)

    @property
    def read_columns(self) -> Positions:
        """The kept columns: those that may differ from zero in some weight, and at least one."""
        columns = np.flatnonzero(self.columns)
        return columns if len(columns) else np.zeros(1, dtype=np.int64)

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        # Including columns where x is zero: other calls of the module may have other inputs, and it has one width.
        reads = hit(self.read_columns, len(self.columns))
        yield self.x, np.tile(reads, len(nonzero[self.x]) // len(reads))
        for place, other in enumerate(self.others):
            every = np.ones(len(nonzero[other]), dtype=bool)
            yield other, every if self.live is None else self.live[self.initial[place]]


def reads_parameter(flow: Analysed, node: fx.Node) -> bool:
    """Whether a value is part of a parameter (looked up, sliced or transposed), so that any layout of it is free."""
    relation = flow.relations.get(node)
    if isinstance(relation, Movement) and relation.how in ("pick", "same"):
        return len(relation.flows) == 1 and relation.flows[0].source.op == "get_attr"
    return isinstance(relation, Lookup) and relation.source.op == "get_attr"


def table_layout(flow: Analysed, node: fx.Node, layout: Positions) -> Positions | None:
    """Return the layout of a table that gives a lookup in it this layout; None if there is none.

    Static axes of the index (the samples of ``[B, K]`` ids) stay whole and share one layout of the table.
    """
    relation = flow.relations[node]
    assert isinstance(relation, Lookup)
    table, result = flow.axes[relation.source], flow.axes[node]
    columns = relation.index[0].reshape(result.shape)
    of_index = [axis for axis in result.wide if np.array_equal(columns, np.roll(columns, 1, axis))]
    first = layout
    for axis in of_index:
        first = first.take([0], axis)
        places = np.unravel_index(layout, result.shape)[axis]
        size = result.shape[axis]
        if layout.shape[axis] != size or np.any(places != np.arange(size).reshape(-1, *[1] * (layout.ndim - axis - 1))):
            return None
    wide = [axis for axis in table.wide if axis != relation.axis]
    result_wide = [axis for axis in result.wide if axis not in of_index]
    if len(wide) != len(result_wide) or np.any(relation.index[0][layout] != relation.index[0][first]):
        return None
    shape = [1] * (len(table.shape) - 1)
    for table_axis, result_axis in zip(wide, result_wide, strict=True):
        shape[table_axis - (table_axis > relation.axis)] = first.shape[result_axis]
    entries = relation.index[:, first.reshape(-1)].reshape([len(relation.index), *shape])
    return np.ascontiguousarray(np.moveaxis(entries, 0, relation.axis))
