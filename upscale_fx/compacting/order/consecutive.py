"""Which sets can be contiguous together: what overlaps, what is in conflict, and which sets are best given up.

Sets are bit masks; the orders in which some of them are contiguous are a :class:`Tree` (see ``pq_tree``).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from upscale_fx.compacting.order.pq_tree import Tree


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
