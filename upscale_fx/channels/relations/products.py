"""Relations of products in which neither side is a plain 2-D weight: einsum, bmm, weights gathered by relation, RNNs.

The axes of both operands and of the result carry letters, as in einsum. By where its letter stands an axis is *batch*
(both operands and result), *left* or *right* (one operand and result) or *inner* (both operands, summed over). In that
order every value is an array of positions: the left operand ``[B, L, K]``, the right one ``[B, K, R]``, the result
``[B, L, R]``. Row axes have one position, so that an axis of rows may be any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from torch import fx

from upscale_fx.channels.positions import Axes, Mask, Masks, Positions
from upscale_fx.channels.relations import Movement, OneOfSeveral, Relation, hit


class Analysed(Protocol):
    """What is known of a graph: the relation and the axes of every node."""

    relations: dict[fx.Node, Relation]
    axes: dict[fx.Node, Axes]


@dataclass(frozen=True)
class Product(Relation):
    """Sum over the inner letters of ``left * right``.

    Attributes:
        left: the first operand.
        right: the second operand.
        letters: per operand, then for the result, one letter for each axis.
        shapes: likewise the sizes, row axes collapsed to 1.
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
        """Positions of one value with its letters in this order; letters of its own (size 1) come last."""
        letters, shape = self.letters[place], self.shapes[place]
        joined = "".join(order)
        own = [axis for axis, letter in enumerate(letters) if letter not in joined]
        axes = [*(letters.index(letter) for letter in joined), *own]
        sizes = [int(np.prod([shape[letters.index(a)] for a in group], dtype=np.int64)) for group in order]
        everything = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.int64).reshape(shape)
        return everything.transpose(axes).reshape(sizes)

    def nonzero(self, count: int, nonzero: Masks) -> Mask:
        left, right, result = self.positions
        a, b = (nonzero[n][p].astype(np.float32) for n, p in ((self.left, left), (self.right, right)))
        found = np.zeros(count, dtype=bool)
        found[result] = np.matmul(a, b) > 0
        return found

    def inner(self, wanted: Mask, nonzero: Masks) -> Mask:
        """Which inner positions ``[B, K]`` the wanted results ``[B, L, R]`` read; at least one where any is wanted."""
        left, right, _ = self.positions
        a, b = nonzero[self.left][left], nonzero[self.right][right].astype(np.float32)
        reads: Mask = (a & (np.matmul(wanted.astype(np.float32), b.transpose(0, 2, 1)) > 0)).any(axis=1)
        starved = wanted.any(axis=(1, 2)) & ~reads.any(axis=1)
        reads[starved, 0] = True  # zero for sure, but the rows have to come from somewhere
        return reads

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        left, right, result = self.positions
        wanted: Mask = needed[result]
        inner = self.inner(wanted, nonzero)
        asked_left = np.logical_or.reduce(wanted, axis=2)[:, :, None] & inner[:, None, :]
        asked_right = inner[:, :, None] & np.logical_or.reduce(wanted, axis=1)[:, None, :]
        yield self.left, hit(left[asked_left], len(nonzero[self.left]))
        yield self.right, hit(right[asked_right], len(nonzero[self.right]))


@dataclass(frozen=True)
class Lookup(OneOfSeveral):
    """Rows of a table chosen by an index that is computed: embeddings, a weight gathered by edge type.

    Result position ``p`` holds one of the table's positions ``index[:, p]``; which one depends on the row. ``axis`` is
    the axis of the table that is indexed.
    """

    axis: int


@dataclass(frozen=True)
class Recurrence(Relation):
    """A recurrent module (LSTM, GRU, RNN) on ``x [.., I]``: it reads the columns of its input weights; all else stays.

    Attributes:
        x: the sequence.
        others: initial states, which are read whole.
        module: path of the module.
        weights: names of the parameters ``[gates * H, I]`` that meet ``x``.
        columns: which columns of these may be other than zero.
    """

    x: fx.Node
    others: tuple[fx.Node, ...]
    module: str
    weights: tuple[str, ...]
    columns: Mask
    reason = "the states of a recurrent module all stay"

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        return (self.x, *self.others)

    @property
    def read_columns(self) -> Positions:
        """The columns that stay: what may be other than zero in some weight, and at least one."""
        found = np.flatnonzero(self.columns)
        return found if len(found) else np.zeros(1, dtype=np.int64)

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        # Also columns that x leaves zero: the module may be called on something else, and has one width.
        wanted = hit(self.read_columns, len(self.columns))
        yield self.x, np.tile(wanted, len(nonzero[self.x]) // len(wanted))
        for other in self.others:
            yield other, np.ones(len(nonzero[other]), dtype=bool)


def reads_parameter(flow: Analysed, node: fx.Node) -> bool:
    """Whether a value is a part of a parameter, looked up, sliced or transposed: any layout of it is free."""
    relation = flow.relations.get(node)
    if isinstance(relation, Movement) and relation.how in ("pick", "same"):
        return len(relation.flows) == 1 and relation.flows[0].source.op == "get_attr"
    return isinstance(relation, Lookup) and relation.source.op == "get_attr"


def table_layout(flow: Analysed, node: fx.Node, layout: Positions) -> Positions | None:
    """The layout a table must have for a lookup in it to have the given layout; None if axes do not correspond."""
    relation = flow.relations[node]
    assert isinstance(relation, Lookup)
    table, result = flow.axes[relation.source], flow.axes[node]
    wide = [axis for axis in table.wide if axis != relation.axis]
    if len(wide) != len(result.wide):
        return None
    shape = [1] * (len(table.shape) - 1)
    for theirs, mine in zip(wide, result.wide, strict=True):
        shape[theirs - (theirs > relation.axis)] = layout.shape[mine]
    entries = relation.index[:, layout.reshape(-1)].reshape([len(relation.index), *shape])
    return np.ascontiguousarray(np.moveaxis(entries, 0, relation.axis))
