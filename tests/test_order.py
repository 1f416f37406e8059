"""The order of channels: a permutation in which readers' sets are contiguous, wherever that is required."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upscale_fx.order import choose_order, contiguous


def masks(sets, count):
    return [np.isin(np.arange(count), sorted(members)) for members in sets]


def is_contiguous(order, members):
    """An oracle of its own: the places of the members span as many places as there are members."""
    places = [place for place, channel in enumerate(order.tolist()) if channel in members]
    return not places or max(places) - min(places) + 1 == len(members)


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


@pytest.mark.parametrize("sets", [[], [set()], [set(range(6))], [set(), set(range(6)), set()]])
def test_without_sets_that_matter_the_order_is_the_original(sets):
    assert choose_order(masks(sets, 6), 6).tolist() == list(range(6))


@settings(max_examples=500)
@given(
    st.integers(1, 40).flatmap(
        lambda count: st.tuples(st.just(count), *[st.sets(st.integers(0, count - 1)) for _ in range(2)])
    )
)
def test_two_readers_always_get_views(case):
    """Own, shared, own."""
    count, *sets = case
    order = choose_order(masks(sets, count), count)
    assert all(is_contiguous(order, members) for members in sets)


@st.composite
def laminar_families(draw):
    """Sets of which any two are nested or disjoint: cuts of cuts of a shuffled range."""
    count = draw(st.integers(1, 24))
    channels = draw(st.permutations(range(count)))
    family, open_ranges = [], [(0, count)]
    for _ in range(draw(st.integers(0, 8))):
        if not open_ranges:
            break
        start, end = open_ranges.pop(draw(st.integers(0, len(open_ranges) - 1)))
        cuts = sorted(draw(st.lists(st.integers(start, end), max_size=3)))
        for low, high in zip([start, *cuts], [*cuts, end], strict=True):
            if high > low and (low, high) != (start, end):
                family.append(set(channels[low:high]))
                open_ranges.append((low, high))
    return count, draw(st.permutations(family))


@settings(max_examples=300)
@given(laminar_families())
def test_nested_and_disjoint_readers_all_get_views(case):
    count, family = case
    order = choose_order(masks(family, count), count)
    assert all(is_contiguous(order, members) for members in family)


@pytest.mark.parametrize(
    ("sets", "count"),
    [
        ([{0, 1}, {1, 2}, {2, 3}], 4),
        ([{0, 1, 2}, {2, 3, 4}, {4, 5}], 6),
        ([{0, 2}, {0, 1, 3}, {0, 2, 3}], 4),
        ([{0, 1}, {0, 1, 2}, {0, 1, 2, 3}], 5),
        ([{0, 3}, {3, 1}, {0, 3, 1}], 4),
    ],
)
def test_three_readers_get_views_where_an_order_exists(sets, count):
    """Not promised in general yet (the consecutive-ones property): these are."""
    order = choose_order(masks(sets, count), count)
    assert [is_contiguous(order, members) for members in sets] == [True] * len(sets)


def test_where_no_order_serves_everyone_most_are_served():
    sets = [{0, 1}, {1, 2}, {0, 2}]
    order = choose_order(masks(sets, 3), 3)
    assert sum(is_contiguous(order, members) for members in sets) == 2


def test_contiguous_tells_what_the_oracle_tells():
    order = np.array([2, 0, 1, 3])
    cases = [set(), {2}, {2, 0}, {2, 1}, {0, 1}, {3, 1}, {2, 3}, {0, 1, 2, 3}]
    assert [contiguous(order, mask) for mask in masks(cases, 4)] == [is_contiguous(order, case) for case in cases]


def test_64_readers_of_256_channels_are_ordered_in_polynomial_time():
    generator = np.random.default_rng(0)
    sets = [generator.random(256) < 0.5 for _ in range(64)]
    start = time.perf_counter()
    order = choose_order(sets, 256)
    assert sorted(order.tolist()) == list(range(256))
    assert time.perf_counter() - start < 30, "search is exponential: this takes milliseconds"
