"""The consecutive-ones property: all orders of some elements in which each of given sets is contiguous, as a PQ-tree.

The elements are the leaves of the tree, read from left to right. The children of a P node may stand in any order, those
of a Q node in the order given or in reverse; what can be read are exactly the orders wanted. Requiring one more set
gives a smaller tree, or shows that no order is left. (Booth and Lueker, "Testing for the consecutive ones property,
interval graphs, and graph planarity using PQ-tree algorithms", 1976. Their templates are written here as recursive
functions on immutable nodes: a set takes time linear in the number of elements, not in its size.)

Sets are bit masks: element ``i`` is in the set where bit ``i`` is 1.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from upscale_fx.channels.positions import Mask


def as_bits(mask: Mask) -> int:
    """A mask over elements as a bit mask."""
    return int.from_bytes(np.packbits(mask, bitorder="little").tobytes(), "little")


@dataclass(frozen=True, slots=True)
class Node:
    """A leaf, a P node or a Q node (``ordered``, with at least 3 children), and the elements below it."""

    members: int
    children: tuple[Node, ...] = ()
    ordered: bool = False

    @property
    def smallest(self) -> int:
        """The lowest bit: it compares like the smallest element."""
        return self.members & -self.members


class _NotConsecutive(Exception):
    """No order is left: an answer, not an error."""


@dataclass(frozen=True)
class Tree:
    """All orders in which the sets required so far are contiguous."""

    root: Node

    @classmethod
    def of_all_orders(cls, count: int) -> Tree:
        """Every permutation of ``count`` elements."""
        return cls(_any_order([Node(1 << element) for element in range(count)]))

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
        order = []
        pending = [self.root]
        while pending:
            node = pending.pop()
            children = list(node.children)
            if not node.ordered:
                children.sort(key=lambda child: child.smallest)
            elif children[-1].smallest < children[0].smallest:
                children.reverse()
            pending.extend(reversed(children))
            if not children and node.members:
                order.append(node.members.bit_length() - 1)
        return order


def _any_order(children: Sequence[Node]) -> Node:
    """A P node."""
    if len(children) == 1:
        return children[0]
    return Node(sum(child.members for child in children), tuple(children))


def _in_order(children: Sequence[Node]) -> Node:
    """A Q node; with fewer than three children a P node says the same."""
    if len(children) < 3:
        return _any_order(children)
    return Node(sum(child.members for child in children), tuple(children), ordered=True)


def _require(node: Node, wanted: int) -> Node:
    """The node with all of ``wanted``, which lies below it, contiguous."""
    path: list[tuple[Node, int]] = []
    while (place := _child_with(node, wanted)) is not None:
        path.append((node, place))
        node = node.children[place]
    if wanted != node.members:
        node = _require_in_q(node, wanted) if node.ordered else _require_in_p(node, wanted)
    for outer, place in reversed(path):
        children = (*outer.children[:place], node, *outer.children[place + 1 :])
        node = Node(outer.members, children, outer.ordered)
    return node


def _child_with(node: Node, wanted: int) -> int | None:
    """The place of the child that holds all of ``wanted``."""
    return next((place for place, child in enumerate(node.children) if not wanted & ~child.members), None)


def _require_in_p(node: Node, wanted: int) -> Node:
    """Full children are brought together; a partial one may stand on either side of them."""
    empty, partial, full = _by_filling(node, wanted)
    if len(partial) > 2:
        raise _NotConsecutive
    run = _line_up(partial[0], wanted) if partial else []
    if full:
        run = [*run, _any_order(full)]
    if len(partial) == 2:
        run = [*run, *reversed(_line_up(partial[1], wanted))]
    return _any_order([*empty, _in_order(run)])


def _require_in_q(node: Node, wanted: int) -> Node:
    """Only the first and the last child that are touched may be partial, with their full sides inwards."""
    children = node.children
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
        empty, partial, full = _by_filling(node, wanted)
        if len(partial) > 1:
            raise _NotConsecutive
        middle = _line_up(partial[0], wanted) if partial else []
        return [*_together(empty), *middle, *_together(full)]
    children = node.children
    if not children[-1].members & wanted or not children[0].members & ~wanted:
        children = children[::-1]
    first = next(i for i, child in enumerate(children) if child.members & wanted)
    if any(child.members & ~wanted for child in children[first + 1 :]):
        raise _NotConsecutive
    return [*children[:first], *_line_up(children[first], wanted), *children[first + 1 :]]


def _together(children: Sequence[Node]) -> list[Node]:
    return [_any_order(children)] if children else []


def _by_filling(node: Node, wanted: int) -> tuple[list[Node], list[Node], list[Node]]:
    """The children without wanted elements, with some, and with nothing else."""
    empty = [child for child in node.children if not child.members & wanted]
    full = [child for child in node.children if not child.members & ~wanted]
    partial = [child for child in node.children if child.members & wanted and child.members & ~wanted]
    return empty, partial, full


def insert(sets: Sequence[int], count: int, indices: Sequence[int]) -> tuple[Tree, list[int], list[int]]:
    """Require sets one by one, where that is possible: the orders left, which sets were required, which were not."""
    tree = Tree.of_all_orders(count)
    required: list[int] = []
    left: list[int] = []
    for index in indices:
        narrower = tree.reduce(sets[index])
        (left if narrower is None else required).append(index)
        tree = narrower or tree
    return tree, required, left


def overlap_components(sets: Sequence[int]) -> list[list[int]]:
    """Indices of the sets, grouped by chains of overlaps: two sets overlap where they meet and neither holds the other.

    Sets of different groups are disjoint or nested, so that they constrain one another in no way: all are consecutive
    iff every group is.
    """
    groups: list[list[int]] = []
    for i, one in enumerate(sets):
        overlapping = {j for j in range(i) if one & sets[j] and one & ~sets[j] and sets[j] & ~one}
        linked = [group for group in groups if not overlapping.isdisjoint(group)]
        groups = [group for group in groups if overlapping.isdisjoint(group)]
        groups.append(sorted([i, *(j for group in linked for j in group)]))
    return sorted(groups)


def conflict(sets: Sequence[int], count: int) -> list[int]:
    """Indices of a minimal family that is not consecutive (without any one of them it is); empty where all sets are."""
    found: list[int] = []
    candidates = list(range(len(sets)))
    while True:
        tree, _, left = insert(sets, count, found)
        if left:
            return sorted(found)
        for place, index in enumerate(candidates):
            narrower = tree.reduce(sets[index])
            if narrower is None:  # with the sets before it alone, every conflict needs this one
                found.append(index)
                candidates = candidates[:place]
                break
            tree = narrower
        else:
            return []


def conflict_bound(sets: Sequence[int], penalties: Sequence[float], count: int) -> float:
    """What giving up sets until the others are consecutive costs at least.

    Conflicts are taken one after the other. In each, some set pays; what is left of the penalties counts again.
    """
    left = dict(enumerate(penalties))
    bound = 0.0
    while family := conflict([sets[i] for i in left], count):
        family = [list(left)[place] for place in family]
        least = min(left[i] for i in family)
        left = {i: penalty - least * (i in family) for i, penalty in left.items()}
        left = {i: penalty for i, penalty in left.items() if penalty > 0}
        bound += least
    return bound


def choices(
    sets: Sequence[int], penalties: Sequence[float], count: int, steps: int
) -> Iterator[tuple[float, Tree | None]]:
    """Which sets to require and which to give up, the least sum of penalties first, and the orders each choice leaves.

    After ``steps`` steps of this best-first search it ends with what every further choice costs at least, and None.
    """
    ranking = sorted(range(len(sets)), key=lambda index: (-penalties[index], index))
    queue = [(0.0, 0, 0, Tree.of_all_orders(count))]
    for step in range(steps):
        if not queue:
            return
        lost, decided, _, tree = heapq.heappop(queue)
        if decided == -len(sets):
            yield lost, tree
            continue
        index = ranking[-decided]
        narrower = tree.reduce(sets[index])
        if narrower is not None:
            heapq.heappush(queue, (lost, decided - 1, 2 * step, narrower))
        heapq.heappush(queue, (lost + penalties[index], decided - 1, 2 * step + 1, tree))
    if queue:
        yield queue[0][0], None
