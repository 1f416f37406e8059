"""Local search over orders: what a move is said to cost is what the order that it makes costs."""

import numpy as np
import pytest

from upscale_fx.compacting.order.groups import Reader, groups_of
from upscale_fx.compacting.order.moves import Arrangement, move_atoms


def random_group(seed, count=11):
    draw = np.random.default_rng(seed)
    sets = [draw.random(count) < draw.uniform(0.2, 0.8) for _ in range(7)]
    prices = [(float(draw.integers(1, 9)), float(draw.choice([0.3, 0.5, 1, 2]))) for _ in sets]
    readers = [Reader(mask, *price) for mask, price in zip(sets, prices, strict=True)]
    return max(groups_of(readers), key=lambda group: len(group.sets))


@pytest.mark.parametrize("seed", range(40))
def test_costs_of_moving_an_atom_are_those_of_the_orders_it_makes(seed):
    group = random_group(seed)
    order = np.random.default_rng(seed).permutation(len(group.atoms))
    arrangement = Arrangement(group, order)
    for atom in order.tolist():
        others = [other for other in order.tolist() if other != atom]
        expected = [group.cost([*others[:place], atom, *others[place:]]) for place in range(len(order))]
        assert arrangement.costs_of_moving(atom).tolist() == expected  # to the last bit
        assert arrangement.without(atom).tolist() == others


@pytest.mark.parametrize("seed", range(20))
def test_moving_atoms_never_costs_more(seed):
    group = random_group(seed)
    order = np.random.default_rng(seed).permutation(len(group.atoms)).tolist()
    moved = move_atoms(group, order)
    assert sorted(moved) == sorted(order)
    assert group.cost(moved) <= group.cost(order)
