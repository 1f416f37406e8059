"""How products of two values, table lookups and recurrent modules are emitted in given layouts."""

from __future__ import annotations

import numpy as np
from torch import fx

from upscale_fx.channels.positions import Mask, Positions
from upscale_fx.channels.relations.products import Lookup, Product, Recurrence, table_layout
from upscale_fx.compacting.rewrite.misaligned import Misaligned
from upscale_fx.compacting.rewrite.rewriter import Rewriter
from upscale_fx.compacting.rewrite.ties import mates_of


def emit_product(rw: Rewriter, node: fx.Node, relation: Product) -> fx.Node:
    """The same call, both operands read so that their inner channels meet and the result has its layout."""
    batch, left, right, inner = relation.groups
    layout, letters = rw.layouts[node], relation.letters[2]
    place = _coordinates(relation, letters, layout)
    if place is None:
        raise Misaligned(node)
    rows, lefts, rights = place
    wanted = np.zeros(relation.positions[2].size, dtype=bool)
    wanted[layout.reshape(-1)] = True
    asked = relation.inner(wanted[relation.positions[2]], rw.flow.nonzero)[rows]
    k = _inner_channels(rw, relation, asked, place)
    if k.shape[1] != asked.shape[1] and _wide_letters(relation, inner) > 1:
        k = np.broadcast_to(np.arange(asked.shape[1]), asked.shape)  # several inner axes: no list fits them all
    sizes = dict(zip(letters, layout.shape, strict=True))
    sizes |= _inner_sizes(relation, inner, k.shape[1])
    first = relation.positions[0][rows[:, None, None], lefts[:, :, None], k[:, None, :]]
    second = relation.positions[1][rows[:, None, None], k[:, :, None], rights[:, None, :]]
    operands = {
        relation.left: rw.read(relation.left, _shaped(relation.letters[0], batch + left + inner, first, sizes)),
        relation.right: rw.read(relation.right, _shaped(relation.letters[1], batch + inner + right, second, sizes)),
    }
    return rw.call(node, operands)


def _coordinates(relation: Product, letters: str, layout: Positions) -> tuple[Positions, Positions, Positions] | None:
    """Batch index ``[B']``, left index ``[B', L']`` and right index ``[B', R']`` of a result layout; None if mixed."""
    batch, left, right, _ = relation.groups
    sizes = dict(zip(letters, layout.shape, strict=True))
    shape = [int(np.prod([sizes[a] for a in group], dtype=np.int64)) for group in (batch, left, right)]
    arranged = layout.transpose([letters.index(a) for a in batch + left + right]).reshape(shape)
    positions = relation.positions[2]
    home = np.empty(positions.size, dtype=np.int64)
    home[positions.reshape(-1)] = np.arange(positions.size)
    row, at_left, at_right = np.unravel_index(home[arranged], positions.shape)
    mixed = np.any(row != row[:, :1, :1]) or np.any(at_left != at_left[:, :, :1])
    if mixed or np.any(at_right != at_right[:, :1, :]):
        return None
    return row[:, 0, 0], at_left[:, :, 0], at_right[:, 0, :]


def _inner_channels(
    rw: Rewriter, relation: Product, asked: Mask, place: tuple[Positions, Positions, Positions]
) -> Positions:
    """Inner channels ``[B', K']`` in the order in which an operand holds them, padded to equal counts."""
    held = np.ones(asked.shape, dtype=bool)
    rank = np.broadcast_to(np.arange(asked.shape[1]), asked.shape)
    rows, lefts, rights = place
    index = (relation.positions[0][rows, lefts[:, 0]], relation.positions[1][rows, :, rights[:, 0]])
    for side, operand in reversed(list(enumerate((relation.left, relation.right)))):
        if operand.op == "get_attr":
            continue
        have = np.full(rw.flow.axes[operand].count, -1, dtype=np.int64)
        flat = rw.layouts[operand].reshape(-1)
        have[flat] = np.arange(len(flat))
        places = have[index[side]]
        held &= places >= 0
        rank = places
    if np.any(asked & ~held):
        raise Misaligned(relation.left, relation.right)
    count = int(asked.sum(axis=1).max())
    chosen = np.empty((len(asked), count), dtype=np.int64)
    for row in range(len(asked)):
        wanted, spare = np.flatnonzero(asked[row]), np.flatnonzero(held[row] & ~asked[row])
        if len(wanted) + len(spare) < count:
            raise Misaligned(relation.left, relation.right)
        picked = np.concatenate([wanted, spare[: count - len(wanted)]])
        chosen[row] = picked[np.argsort(rank[row, picked], kind="stable")]
    return chosen


def _wide_letters(relation: Product, letters: str) -> int:
    shape = dict(zip(relation.letters[0], relation.shapes[0], strict=True))
    return sum(shape[letter] > 1 for letter in letters)


def _inner_sizes(relation: Product, inner: str, count: int) -> dict[str, int]:
    """Sizes of the inner axes: as they are, but that the one with channels now has ``count``."""
    shape = dict(zip(relation.letters[0], relation.shapes[0], strict=True))
    whole = {letter: shape[letter] for letter in inner}
    if _wide_letters(relation, inner) > 1:
        return whole
    return {letter: count if size > 1 else 1 for letter, size in whole.items()}


def _shaped(letters: str, order: str, positions: Positions, sizes: dict[str, int]) -> Positions:
    """Positions arranged by groups of letters, back in the operand's own order of axes."""
    full = positions.reshape([sizes[letter] for letter in order])
    own = [letter for letter in letters if letter not in order]  # broadcast axes of size 1
    full = full.reshape([*full.shape, *[1] * len(own)])
    known = [*order, *own]
    return np.ascontiguousarray(full.transpose([known.index(letter) for letter in letters]))


def emit_lookup(rw: Rewriter, node: fx.Node, relation: Lookup) -> fx.Node:
    """The same lookup in a table that holds only the channels that are kept."""
    wanted = table_layout(rw.flow, node, rw.layouts[node])
    if wanted is None:
        raise Misaligned(node, relation.source)
    return rw.call(node, {relation.source: rw.read(relation.source, wanted)})


def emit_recurrence(rw: Rewriter, node: fx.Node, relation: Recurrence) -> fx.Node:
    """The same module with the unread columns of its input weights cut off."""
    inputs = len(relation.columns)
    columns = relation.read_columns
    if relation.module in rw.narrowed:
        columns = rw.narrowed[relation.module][1]
    elif (order := _order_of_mate(rw, relation)) is not None:
        columns = order
    elif relation.x.op != "get_attr":
        have = rw.layouts[relation.x]
        line = have.reshape(-1, have.shape[-1])[0] % inputs
        columns = line[np.isin(line, columns)]
    rw.narrowed[relation.module] = (relation.weights, columns)
    lead = rw.flow.axes[relation.x].everything()[..., :1]
    return rw.call(node, {relation.x: rw.read(relation.x, lead + columns)})


def _order_of_mate(rw: Rewriter, relation: Recurrence) -> Positions | None:
    """The order in which a module that shares weights with this one reads the same columns; None if there is none."""
    for mate in mates_of(rw.flow.module, relation.module, rw.narrowed):
        columns = rw.narrowed[mate][1]
        if np.array_equal(np.sort(columns), relation.read_columns):
            return columns
    return None
