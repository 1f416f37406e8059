"""The best order of one group of readers: exact where that is affordable, local search elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import inf, prod

import numpy as np

from upscale_fx.channels.positions import Positions
from upscale_fx.compacting.order.consecutive import choices, insert
from upscale_fx.compacting.order.groups import Costs, Group
from upscale_fx.compacting.order.moves import ROUNDING, move_atoms

EXACT_STEPS = 1 << 10
EXACT_WORK = 1 << 27
LOCAL_SEARCH_STEPS = 1 << 12  # sets inserted into trees
RANDOM_STARTS = 48


def solve(group: Group) -> list[int]:
    """An order of the atoms that costs little: the least where that is affordable."""
    order, bound = _search(group)
    if group.cost(order) <= bound + ROUNDING:
        return order
    if _is_small(group):
        return _place_atoms(group)
    found = [order, _insert_readers(group)]
    if np.any(group.penalties < group.prices[:, -1]):  # narrower gaps cost less
        found = [move_atoms(group, start) for start in (*found, range(len(group.atoms)))]
    return min(found, key=group.cost)


def least_cost(group: Group) -> float:
    """A cost that no order of the atoms can undercut: that of ``solve`` where it is exact."""
    order, bound = _search(group)
    if group.cost(order) > bound + ROUNDING and _is_small(group):
        return group.cost(_place_atoms(group))
    return bound


def _is_small(group: Group) -> bool:
    """Whether all orders can be compared."""
    count = len(group.atoms)
    return prod(map(len, group.lines)) * len(group.sets) * count << count <= EXACT_WORK


def _search(group: Group) -> tuple[list[int], float]:
    """The best order found by choosing which readers are contiguous, and what every order costs at least.

    Where gaps of any size cost the same, the first choice is optimal. Otherwise a choice leaves open how wide the gaps
    of the other readers are, and the search goes on.
    """
    best, least, bound = list(range(len(group.atoms))), inf, inf
    for lost, tree in choices(group.sets, group.penalties.tolist(), len(group.atoms), EXACT_STEPS):
        bound = min(bound, lost)
        if tree is None or lost >= least:
            break
        order = tree.frontier()
        cost = group.cost(order)
        if cost < least:
            best, least = order, cost
    return best, bound


def _place_atoms(group: Group) -> list[int]:
    """The best order of few atoms: placed from left to right, by dynamic programming over the sets of atoms placed.

    A gap grows by the atoms placed between a reader's first and last one, so that costs add up once it is chosen which
    of its lines every reader pays; all choices are computed at once.
    """
    chosen = np.array(list(product(*group.lines)))  # [choices, readers, 2]
    once, each = chosen[:, :, 0].sum(axis=1), chosen[:, :, 1].T
    count, sets = len(group.atoms), np.array(group.sets)

    def step(placed: Positions, atom: int) -> Costs:
        """What it costs to place an atom next: [sets placed before, choices]."""
        met = placed[:, None] & sets
        between = (met != 0) & (met != sets) & ~group.inside[:, atom]
        return np.asarray(between * float(group.weights[atom]) @ each)

    states = np.arange(1 << count)
    sizes = sum(states >> atom & 1 for atom in range(count))
    costs = np.full((1 << count, len(once)), inf)
    costs[0] = 0
    for size, atom in product(range(count), range(count)):
        before = states[(sizes == size) & (states >> atom & 1 == 0)]
        after = before | 1 << atom
        costs[after] = np.minimum(costs[after], costs[before] + step(before, atom))
    choice = int(np.argmin(costs[-1] + once))
    order: list[int] = []
    while len(order) < count:
        rest = [atom for atom in range(count) if atom not in order]
        before = np.array([sum(1 << other for other in rest if other != atom) for atom in rest])
        last = [costs[b, choice] + step(np.array([b]), a)[0, choice] for a, b in zip(rest, before, strict=True)]
        order.insert(0, min(zip(last, rest, strict=True), key=lambda found: (found[0], -found[1]))[1])
    return order


def _insert_readers(group: Group) -> list[int]:
    """Insert readers greedily, by several priorities; then drop or promote one reader at a time while that helps.

    A reader that disagrees with most others does harm where it comes early. Random priorities (always the same ones)
    find orders that begin without such readers.
    """
    inside, penalties, count = group.inside, group.penalties, len(group.atoms)
    overlaps = (inside @ inside.T & inside @ ~inside.T & ~inside @ inside.T).sum(axis=1)
    starts = [np.lexsort((-penalties, rank)) for rank in (-penalties, overlaps, overlaps / penalties)]
    generator = np.random.default_rng(0)
    starts += [generator.permutation(len(inside)) for _ in range(RANDOM_STARTS)]

    def attempt(readers: Sequence[int]) -> tuple[float, list[int], list[int], list[int]]:
        tree, required, left = insert(group.sets, count, readers)
        order = tree.frontier()
        return group.cost(order), order, required, left

    best = min((attempt(start.tolist()) for start in starts), key=lambda found: found[0])
    steps, improved = LOCAL_SEARCH_STEPS // len(inside), True
    while improved and steps > 0:
        improved = False
        for reader in starts[0][:steps].tolist():
            _, _, required, left = best
            others = [other for other in (*required, *left) if other != reader]
            found = attempt([*others, reader] if reader in required else [reader, *others])
            if found[0] < best[0] - ROUNDING:
                best, improved = found, True
        steps -= len(inside)
    return best[1]
