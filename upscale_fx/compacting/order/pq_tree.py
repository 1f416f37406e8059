"""The consecutive-ones property: all orders of some elements in which each of given sets is contiguous, as a PQ-tree.

The elements are the leaves of the tree, read from left to right. The children of a P node may stand in any order, those
of a Q node in the order given or in reverse; what can be read are exactly the orders wanted. Requiring one more set
gives a smaller tree, or shows that no order is left. (Booth and Lueker, "Testing for the consecutive ones property,
interval graphs, and graph planarity using PQ-tree algorithms", 1976. Their templates are written here as recursive
functions on immutable nodes: a set takes time linear in the number of nodes that are not leaves, not in its size.)

Sets are bit masks: element ``i`` is in the set where bit ``i`` is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from upscale_fx.channels.positions import Mask, Positions


def as_bits(mask: Mask) -> int:
    """A mask over elements as a bit mask."""
    return int.from_bytes(np.packbits(mask, bitorder="little").tobytes(), "little")


def bits_of(elements: Positions) -> int:
    """Elements, smallest first and at least one, as a bit mask."""
    lowest = int(elements[0])
    mask = np.zeros(int(elements[-1]) - lowest + 1, dtype=bool)
    mask[elements - lowest] = True
    return as_bits(mask) << lowest


def elements_of(bits: int) -> list[int]:
    """The elements of a set, smallest first."""
    lowest = max((bits & -bits).bit_length() - 1, 0)
    bits >>= lowest
    if bits == 1:
        return [lowest]
    data = np.frombuffer(bits.to_bytes(bits.bit_length() // 8 + 1, "little"), dtype=np.uint8)
    found: list[int] = (np.flatnonzero(np.unpackbits(data, bitorder="little")) + lowest).tolist()
    return found


@dataclass(slots=True)
class Node:
    """A leaf, a P node or a Q node (``ordered``, with at least 3 children), and the elements below it; never changed.

    The leaves among the children of a P node are bits of ``loose``, so that a set tells them apart in one step; its
    ``inner`` children are the others. Those of a Q node are all in ``inner``, in order.
    """

    members: int
    inner: tuple[Node, ...] = ()
    ordered: bool = False
    loose: int = 0

    @property
    def children(self) -> tuple[Node, ...]:
        """All children."""
        return (*(Node(1 << element) for element in elements_of(self.loose)), *self.inner)

    @property
    def smallest(self) -> int:
        """The lowest bit: it compares like the smallest element."""
        return self.members & -self.members

    @property
    def is_leaf(self) -> bool:
        """Whether nothing is below it."""
        return not self.inner and not self.loose


class _NotConsecutive(Exception):
    """No order is left: an answer, not an error."""


@dataclass(frozen=True)
class Tree:
    """All orders in which the sets required so far are contiguous."""

    root: Node

    @classmethod
    def of_all_orders(cls, count: int) -> Tree:
        """Every permutation of ``count`` elements."""
        return cls(_any_order((1 << count) - 1, ()))

    def reduce(self, wanted: int) -> Tree | None:
        """Those of these orders in which the set ``wanted`` is contiguous too, None where there are none."""
        if wanted & (wanted - 1) == 0:
            return self  # at most one element
        try:
            return Tree(_require(self.root, wanted))
        except _NotConsecutive:
            return None

    def frontier(self) -> list[int]:
        """One of the orders: the smallest elements come first wherever the tree leaves a choice."""
        order: list[int] = []
        pending: list[Node | list[int]] = [self.root]
        while pending:
            node = pending.pop()
            if isinstance(node, list):
                order += node
            elif node.is_leaf:
                order += elements_of(node.members)
            elif not node.ordered:
                pending.extend(reversed(_smallest_first(node)))
            elif node.inner[-1].smallest < node.inner[0].smallest:
                pending.extend(node.inner)
            else:
                pending.extend(reversed(node.inner))
        return order


def _smallest_first(node: Node) -> list[Node | list[int]]:
    """The children of a P node by their smallest element; leaves that follow one another in one list."""
    parts: list[Node | list[int]] = []
    rest = node.loose
    for child in sorted(node.inner, key=lambda child: child.smallest):
        before = rest & (child.smallest - 1)
        if before:
            parts.append(elements_of(before))
            rest ^= before
        parts.append(child)
    return [*parts, elements_of(rest)] if rest else parts


def _any_order(loose: int, children: Sequence[Node]) -> Node:
    """A P node of leaves and of other nodes, which may be leaves as well."""
    members = loose
    inner = []
    for child in children:
        members |= child.members
        if child.inner or child.loose:
            inner.append(child)
        else:
            loose |= child.members
    if not loose and len(inner) == 1:
        return inner[0]
    if not inner and loose & (loose - 1) == 0:
        return Node(loose)
    return Node(members, tuple(inner), False, loose)


def _in_order(children: Sequence[Node]) -> Node:
    """A Q node; with fewer than three children a P node says the same."""
    if len(children) < 3:
        return _any_order(0, children)
    members = 0
    for child in children:
        members |= child.members
    return Node(members, tuple(children), True)


def _require(node: Node, wanted: int) -> Node:
    """The node with all of ``wanted``, which lies below it, contiguous."""
    path: list[tuple[Node, int]] = []
    while (place := _child_with(node, wanted)) is not None:
        path.append((node, place))
        node = node.inner[place]
    if wanted != node.members:
        node = _require_in_q(node, wanted) if node.ordered else _require_in_p(node, wanted)
    for outer, place in reversed(path):
        children = (*outer.inner[:place], node, *outer.inner[place + 1 :])
        node = Node(outer.members, children, outer.ordered, outer.loose)
    return node


def _child_with(node: Node, wanted: int) -> int | None:
    """The place of the child that holds all of ``wanted``, which is more than one element."""
    for place, child in enumerate(node.inner):
        held = child.members & wanted
        if held:
            return place if held == wanted else None
    return None


def _require_in_p(node: Node, wanted: int) -> Node:
    """Full children are brought together; a partial one may stand on either side of them."""
    empty, partial, full = _by_filling(node.inner, wanted)
    if len(partial) > 2:
        raise _NotConsecutive
    run = _line_up(partial[0], wanted) if partial else []
    run += _together(node.loose & wanted, full)
    if len(partial) == 2:
        run += reversed(_line_up(partial[1], wanted))
    return _any_order(node.loose & ~wanted, [*empty, _in_order(run)])


def _require_in_q(node: Node, wanted: int) -> Node:
    """Only the first and the last child that are touched may be partial, with their full sides inwards."""
    children = node.inner
    touched = [i for i, child in enumerate(children) if child.members & wanted]
    first, last = touched[0], touched[-1]
    inner = children[first + 1 : last]
    if any(child.members & ~wanted for child in inner):
        raise _NotConsecutive
    left, right = _line_up(children[first], wanted), reversed(_line_up(children[last], wanted))
    return _in_order([*children[:first], *left, *inner, *right, *children[last + 1 :]])


def _line_up(node: Node, wanted: int) -> list[Node]:
    """The node taken apart into children of a Q node: first those without wanted elements, then the full ones."""
    if node.members & wanted in (0, node.members):
        return [node]
    if not node.ordered:
        empty, partial, full = _by_filling(node.inner, wanted)
        if len(partial) > 1:
            raise _NotConsecutive
        middle = _line_up(partial[0], wanted) if partial else []
        return [*_together(node.loose & ~wanted, empty), *middle, *_together(node.loose & wanted, full)]
    children = node.inner
    if not children[-1].members & wanted or not children[0].members & ~wanted:
        children = children[::-1]
    first = next(i for i, child in enumerate(children) if child.members & wanted)
    if any(child.members & ~wanted for child in children[first + 1 :]):
        raise _NotConsecutive
    return [*children[:first], *_line_up(children[first], wanted), *children[first + 1 :]]


def _together(loose: int, children: Sequence[Node]) -> list[Node]:
    return [_any_order(loose, children)] if loose or children else []


def _by_filling(children: Sequence[Node], wanted: int) -> tuple[list[Node], list[Node], list[Node]]:
    """The children without wanted elements, with some, and with nothing else."""
    empty: list[Node] = []
    partial: list[Node] = []
    full: list[Node] = []
    for child in children:
        held = child.members & wanted
        (empty if not held else full if held == child.members else partial).append(child)
    return empty, partial, full
