"""The order of channels: the permutation in which reading costs least, compared with all where they are few."""

from itertools import product
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.compacting.readers import is_contiguous, least_cost, masks, planted, random_readers
from upscale_fx.compacting.order import search
from upscale_fx.compacting.order.choose import (
    choose_order,
    contiguous,
    copies_lower_bound,
    cost_lower_bound,
    order_cost,
)
from upscale_fx.compacting.order.consecutive import conflict, overlap_components
from upscale_fx.compacting.order.groups import Reader
from upscale_fx.compacting.order.pq_tree import as_bits


@pytest.fixture
def heuristic(monkeypatch):
    """As if every group of readers were too large for an exact solution."""
    monkeypatch.setattr(search, "EXACT_STEPS", 0)
    monkeypatch.setattr(search, "EXACT_WORK", 0)


# What holds for every order ------------------------------------------------------------------------------------------

sets_of_channels = st.integers(1, 12).flatmap(
    lambda count: st.tuples(st.just(count), st.lists(st.sets(st.integers(0, count - 1)), max_size=6))
)


@given(sets_of_channels)
def test_order_is_a_permutation_and_always_the_same(case):
    count, sets = case
    order = choose_order(masks(sets, count), count)
    assert sorted(order.tolist()) == list(range(count))
    assert order.tolist() == choose_order(masks(sets, count), count).tolist()


@given(sets_of_channels)
def test_order_does_not_depend_on_the_order_of_readers(case):
    count, sets = case
    assert choose_order(masks(sets, count), count).tolist() == choose_order(masks(sets[::-1], count), count).tolist()


@pytest.mark.parametrize("seed", range(50))
def test_order_of_priced_readers_does_not_depend_on_their_order(seed):
    readers, count = random_readers(seed, most_readers=12)
    readers += readers[:2]
    assert choose_order(readers, count).tolist() == choose_order(readers[::-1], count).tolist()


@pytest.mark.parametrize("sets", [[], [set()], [set(range(6))], [set(), set(range(6)), set()], [{4}, {2}]])
def test_without_sets_that_matter_the_order_is_the_original(sets):
    assert choose_order(masks(sets, 6), 6).tolist() == list(range(6))


def test_readers_that_pay_nothing_do_not_matter():
    first, second = masks([{0, 3}, {1, 4}], 6)
    assert choose_order([Reader(first, copy=0), Reader(second, widen=0)], 6).tolist() == list(range(6))


@pytest.mark.parametrize(
    ("sets", "order"),
    [
        ([{1, 2}, {2, 3}], [0, 1, 2, 3, 4, 5]),
        ([{1, 4}], [0, 1, 4, 2, 3, 5]),
        ([{3, 4, 5}, {1, 4}], [0, 1, 4, 3, 5, 2]),
        ([{0, 1}, {1, 2}, {0, 2}, {4, 5}], [0, 1, 2, 3, 4, 5]),
    ],
)
def test_order_stays_close_to_the_original(sets, order):
    assert choose_order(masks(sets, 6), 6).tolist() == order


def test_no_channels():
    assert choose_order([], 0).tolist() == []
    assert choose_order([np.zeros(0, dtype=bool)], 0).tolist() == []


def test_costs_that_cannot_be_are_refused():
    mask = np.ones(2, dtype=bool)
    for costs in ({"copy": -1}, {"copy": inf}, {"copy": float("nan")}, {"widen": -1}, {"widen": float("nan")}):
        with pytest.raises(ValueError, match="costs must"):
            Reader(mask, **costs)


# What readers pay ----------------------------------------------------------------------------------------------------


def test_contiguous_tells_what_the_oracle_tells():
    order = np.array([2, 0, 1, 3])
    cases = [set(), {2}, {2, 0}, {2, 1}, {0, 1}, {3, 1}, {2, 3}, {0, 1, 2, 3}]
    assert [contiguous(order, mask) for mask in masks(cases, 4)] == [is_contiguous(order, case) for case in cases]


def test_a_reader_pays_for_a_copy_or_for_each_channel_in_its_gap():
    first, second, third = masks([{0, 3}, {0, 1}, {0, 2}], 4)
    order = np.arange(4)
    assert order_cost([first, second, third], order) == 2
    assert order_cost([Reader(first, copy=5, widen=2), Reader(second, 5, 2), Reader(third, 5, 2)], order) == 4 + 0 + 2
    assert order_cost([Reader(first, copy=3, widen=2), Reader(third, copy=3)], order) == 3 + 3


def test_equal_readers_pay_one_by_one():
    """Together they are dearer than the others, which then pay."""
    one, two, three = masks([{0, 1}, {1, 2}, {0, 2}], 3)
    order = choose_order([one, one, two, two, three], 3)
    assert [contiguous(order, mask) for mask in (one, two, three)] == [True, True, False]
    assert order_cost([one, one, two, two, three], order) == 1


# The least cost, where no order gives views to all -------------------------------------------------------------------

# Tucker's five kinds of minimal families that are not consecutive ("A structure theorem for the consecutive 1's
# property", 1972): cycles, two kinds of wheels, and two of their own.
TUCKER = {
    **{f"I {n}": [{i, (i + 1) % n} for i in range(n)] for n in (3, 4, 5, 6)},
    **{
        f"II {n}": [*({i, i + 1} for i in range(n - 2)), set(range(n)) - {n - 2}, set(range(1, n))]
        for n in (4, 5, 6, 7)
    },
    **{f"III {n}": [*({i, i + 1} for i in range(n - 2)), set(range(1, n)) - {n - 2}] for n in (4, 5, 6, 7)},
    "IV": [{0, 1}, {2, 3}, {4, 5}, {0, 2, 4}],
    "V": [{0, 1}, {2, 3}, {0, 1, 2, 3}, {0, 2, 4}],
}


@pytest.mark.parametrize("sets", TUCKER.values(), ids=TUCKER)
def test_one_copy_serves_each_of_tuckers_families(sets):
    count = max(map(max, sets)) + 1
    family = masks(sets, count)
    assert least_cost([Reader(mask) for mask in family], count) == 1
    assert order_cost(family, choose_order(family, count)) == copies_lower_bound(family) == 1
    assert conflict([as_bits(mask) for mask in family], count) == list(range(len(sets)))


@pytest.mark.parametrize("priced", [False, True])
def test_order_costs_as_little_as_the_best_of_all(priced):
    for seed in range(400):
        readers, count = random_readers(seed, priced=priced)
        least = least_cost(readers, count)
        assert order_cost(readers, choose_order(readers, count)) == pytest.approx(least), seed
        assert cost_lower_bound(readers) == pytest.approx(least), seed


def test_copies_are_counted_whatever_they_cost():
    readers = [Reader(mask, copy=7, widen=0.1) for mask in masks(TUCKER["I 3"], 3)]
    assert copies_lower_bound(readers) == 1
    assert cost_lower_bound(readers) == pytest.approx(0.1)


@pytest.mark.parametrize("widen", [inf, 1.0])
def test_groups_are_ordered_inside_one_another(widen):
    """Three readers in a triangle, in a channel of another triangle, next to a third: each pays once."""
    sets = [{0, 5, 6}, {5, 6, 7, 8, 9}, {0, 7, 8, 9}, {7, 8}, {8, 9}, {7, 9}, {1, 2}, {2, 3}, {1, 3}]
    readers = [Reader(mask, 4.0, widen) for mask in masks(sets, 10)]
    order = choose_order(readers, 10)
    assert order_cost(readers, order) == cost_lower_bound(readers) == (12 if widen == inf else 1 + 1 + 1)
    assert len(overlap_components([as_bits(reader.channels) for reader in readers])) == 3


# Larger groups: close to the least cost ------------------------------------------------------------------------------


@pytest.mark.parametrize("priced", [False, True])
def test_heuristic_comes_close_to_the_best_of_all(heuristic, priced):
    least, found = 0.0, 0.0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        count = int(generator.integers(6, 8))
        sets = [generator.random(count) < 0.5 for _ in range(generator.integers(9, 11))]
        readers = [
            Reader(mask, float(mask.sum()), generator.choice([0.5, 1, 2])) if priced else Reader(mask) for mask in sets
        ]
        best = least_cost(readers, count)
        assert cost_lower_bound(readers) <= best + 1e-9
        least += best
        found += order_cost(readers, choose_order(readers, count))
    print(f"\nheuristic: {found / least - 1:.1%} above the least cost")
    assert least <= found <= 1.1 * least


def test_heuristic_finds_hidden_orders(heuristic):
    for seed in range(3):
        hidden = planted(seed, 64, 256)
        assert order_cost(hidden, choose_order(hidden, 256)) == 0


@pytest.mark.parametrize("disturbers", [8, 24])
def test_readers_that_disagree_with_all_others_copy(disturbers):
    for seed in range(2):
        generator = np.random.default_rng(seed)
        disturbing = [generator.random(256) < 0.3 for _ in range(disturbers)]
        readers = [*disturbing, *planted(seed, 64 - disturbers, 256)]
        assert order_cost(readers, choose_order(readers, 256)) <= disturbers


@pytest.mark.parametrize("widen", [inf, 1.5])
def test_no_single_channel_has_a_better_place(heuristic, widen):
    """Not the best of all, perhaps, but not improved by moving one channel either."""
    for seed in range(5):
        generator = np.random.default_rng(seed)
        readers = [Reader(generator.random(9) < 0.5, 5.0, widen) for _ in range(9)]
        order = choose_order(readers, 9)
        for channel, place in product(range(9), range(9)):
            moved = np.insert(np.delete(order, np.flatnonzero(order == channel)), place, channel)
            assert order_cost(readers, order) <= order_cost(readers, moved) + 1e-9


@pytest.mark.parametrize("kind", ["random", "disturbed", "widened"])
def test_64_readers_of_256_channels_are_ordered(kind):
    """An exponential search would not end."""
    generator = np.random.default_rng(0)
    if kind == "random":
        readers = [Reader(generator.random(256) < 0.5) for _ in range(64)]
    else:
        sets = [mask ^ (generator.random(256) < 0.002) for mask in planted(0, 64, 256)]
        readers = [Reader(mask, 128.0, inf if kind == "disturbed" else 1.5) for mask in sets]
    order = choose_order(readers, 256)
    found, bound, original = order_cost(readers, order), cost_lower_bound(readers), order_cost(readers, np.arange(256))
    assert sorted(order.tolist()) == list(range(256))
    assert bound <= found < original
