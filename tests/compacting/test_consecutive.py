"""Orders that give views to all readers, where there are any, and the PQ-tree that holds them."""

from itertools import pairwise, permutations, product
from math import factorial, inf, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compacting.readers import is_contiguous, least_cost, masks, planted, random_readers
from upscale_fx.compacting.order.choose import choose_order, contiguous, cost_lower_bound, order_cost
from upscale_fx.compacting.order.consecutive import conflict, overlap_components
from upscale_fx.compacting.order.groups import Reader
from upscale_fx.compacting.order.pq_tree import Tree, as_bits

# Views for all, where an order allows it -----------------------------------------------------------------------------


@settings(max_examples=300)
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


@settings(max_examples=200)
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
    order = choose_order(masks(sets, count), count)
    assert [is_contiguous(order, members) for members in sets] == [True] * len(sets)


@pytest.mark.parametrize("widen", [inf, 0.1])
@pytest.mark.parametrize(("readers", "count", "shortest"), [(9, 7, 2), (64, 256, 0), (64, 256, 100), (200, 40, 2)])
def test_a_hidden_order_is_found(readers, count, shortest, widen):
    for seed in range(3):
        hidden = [Reader(mask, widen=widen) for mask in planted(seed, readers, count, shortest)]
        assert order_cost(hidden, choose_order(hidden, count)) == 0
        assert cost_lower_bound(hidden) == 0


def test_many_nested_readers_are_no_recursion():
    nested = [np.arange(1100) < size for size in range(1050, 0, -1)]
    assert order_cost(nested, choose_order(nested, 1100)) == 0


# The PQ-tree ---------------------------------------------------------------------------------------------------------


def all_orders_of(node):
    """Every order that can be read from a tree."""
    if not node.children:
        return {(node.members.bit_length() - 1,)}
    arrangements = [node.children, node.children[::-1]] if node.ordered else permutations(node.children)
    return {
        sum(parts, ()) for children in arrangements for parts in product(*(all_orders_of(child) for child in children))
    }


def count_orders_of(node):
    below = prod(count_orders_of(child) for child in node.children)
    return below * (2 if node.ordered else factorial(len(node.children)))


def test_a_tree_holds_exactly_the_orders_in_which_its_sets_are_contiguous():
    for seed in range(150):
        readers, count = random_readers(seed, most_channels=6, priced=False)
        wanted = {
            order
            for order in permutations(range(count))
            if all(contiguous(np.array(order), reader.channels) for reader in readers)
        }
        tree = Tree.of_all_orders(count)
        for reader in readers:
            tree = tree and tree.reduce(as_bits(reader.channels))
        assert (all_orders_of(tree.root) if tree else set()) == wanted
        if tree:
            assert count_orders_of(tree.root) == len(wanted)
            assert tuple(tree.frontier()) in wanted


def test_a_tree_is_not_changed_by_what_is_required_of_it():
    tree = Tree.of_all_orders(5)
    narrower = tree.reduce(0b10001)
    assert tree.frontier() == [0, 1, 2, 3, 4]
    assert narrower.frontier() == [0, 4, 1, 2, 3]
    assert narrower.reduce(0b10001) == narrower


def test_a_chain_of_pairs_leaves_an_order_and_its_reverse():
    tree = Tree.of_all_orders(6)
    for one, other in pairwise([3, 0, 5, 1, 4, 2]):
        tree = tree.reduce(1 << one | 1 << other)
    assert count_orders_of(tree.root) == 2
    assert tree.frontier() == [2, 4, 1, 5, 0, 3]
    assert tree.reduce(0b11) is None


@given(st.lists(st.sets(st.integers(0, 6), min_size=1), max_size=6))
def test_sets_of_different_components_do_not_overlap(sets):
    components = overlap_components([sum(1 << element for element in members) for members in sets])
    assert sorted(i for component in components for i in component) == list(range(len(sets)))
    for one, other in product(components, components):
        for i, j in product(one, other):
            assert one == other or not sets[i] & sets[j] or sets[i] <= sets[j] or sets[j] <= sets[i]


def test_a_conflict_is_minimal():
    for seed in range(100):
        readers, count = random_readers(seed, most_readers=8, priced=False)
        sets = [reader.channels for reader in readers]
        family = conflict([as_bits(mask) for mask in sets], count)
        assert bool(family) == (least_cost(readers, count) > 0)
        for left_out in family:
            rest = [readers[i] for i in family if i != left_out]
            assert least_cost(rest, count) == 0
