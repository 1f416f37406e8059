"""Local search over orders: one atom after the other moves to the place where it costs least."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from upscale_fx.channels.positions import Positions
from upscale_fx.compacting.order.groups import Costs, Group

#: A cost that is lower by no more than this is as high.
ROUNDING = 1e-9


def move_atoms(group: Group, order: Sequence[int]) -> list[int]:
    """Move single atoms to better places, up to three times each."""
    state, least = Arrangement(group, np.array(order)), group.cost(order)
    for _ in range(3):
        before = least
        for atom in range(len(order)):
            costs = state.costs_of_moving(atom)
            place = int(np.argmin(costs))
            if costs[place] < least - ROUNDING:
                least = float(costs[place])
                state.arrange(np.insert(state.without(atom), place, atom))
        if least == before:
            break
    found: list[int] = state.order.tolist()
    return found


class Arrangement:
    """Atoms in an order, and what the group pays if one of them stands elsewhere.

    Between ``n`` atoms there are ``n + 1`` slots. A reader of the atom pays more the farther a slot is from its other
    atoms, another one pays for the atom in slots that it *crosses*, between its first atom and its last one.
    """

    def __init__(self, group: Group, order: Positions) -> None:
        self.inside, self.weights = group.inside, group.weights
        self.prices = np.ascontiguousarray(group.prices)
        self.widest = group.prices.shape[1] - 1
        self.sizes = group.inside @ group.weights
        self.others = [np.flatnonzero(~column) for column in group.inside.T]
        self.slots = np.arange(len(order) + 1)
        self.rows = np.arange(len(group.inside))[:, None]
        self.arrange(order)

    def arrange(self, order: Positions) -> None:
        """Take another order."""
        self.order, self.place = order, np.argsort(order)
        self.ordered = self.inside[:, order]
        self.first = self.ordered.argmax(axis=1)
        self.last = len(order) - 1 - self.ordered[:, ::-1].argmax(axis=1)
        self.before = np.concatenate([[0], np.cumsum(self.weights[order])])
        self.gaps = self.before[self.last + 1] - self.before[self.first] - self.sizes
        self.crosses = (self.first[:, None] < self.slots) & (self.slots <= self.last[:, None])
        self.stretched = self._stretched(self.rows, self.before, self.first, self.last, self.sizes)

    def _stretched(
        self, rows: Positions, before: Positions, first: Positions, last: Positions, sizes: Positions
    ) -> Costs:
        """What some readers pay where their span also has to reach each of the slots: [rows, slots]."""
        gaps = np.maximum(before[last + 1][:, None], before) - np.minimum(before[first][:, None], before)
        return np.asarray(self.prices[rows, gaps - sizes[:, None]])

    def without(self, atom: int) -> Positions:
        """The order of the other atoms."""
        return np.delete(self.order, self.place[atom])

    def costs_of_moving(self, atom: int) -> Costs:
        """What all readers pay with the atom before each of the other atoms, and after all of them."""
        place, weight, other = int(self.place[atom]), int(self.weights[atom]), self.others[atom]
        paid = self.stretched.copy()
        crosses = self.crosses[other]
        gaps = self.gaps[other] - weight * crosses[:, place]  # without the atom
        same, wider = self.prices[other, gaps], self.prices[other, np.minimum(gaps + weight, self.widest)]
        paid[other] = np.where(crosses, wider[:, None], same[:, None])
        ends = np.flatnonzero((self.first == place) | (self.last == place))
        if len(ends):
            paid[ends] = self._without_end(ends, place, weight)
        costs = paid.sum(axis=0)  # reader by reader, so that rounding is the same however they are computed
        return np.concatenate([costs[: place + 1], costs[place + 2 :]])  # the slots around the atom are one

    def _without_end(self, ends: Positions, place: int, weight: int) -> Costs:
        """What readers pay whose first or last atom is moved from its place to each of the slots."""
        ordered = self.ordered[ends]
        ordered[:, place] = False
        first, last = ordered.argmax(axis=1), ordered.shape[1] - 1 - ordered[:, ::-1].argmax(axis=1)
        before = self.before - weight * (self.slots > place)
        return self._stretched(ends[:, None], before, first, last, self.sizes[ends] - weight)
