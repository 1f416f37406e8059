"""Readers of channels, drawn at random or planted, and what an order costs them at least."""

from itertools import permutations
from math import inf

import numpy as np

from upscale_fx.compacting.order.groups import Reader


def masks(sets, count):
    return [np.isin(np.arange(count), sorted(members)) for members in sets]


def is_contiguous(order, members):
    """An oracle of its own: the places of the members span as many places as there are members."""
    places = [place for place, channel in enumerate(order.tolist()) if channel in members]
    return not places or max(places) - min(places) + 1 == len(members)


def least_cost(readers, count):
    """Brute force: the least that the readers pay over all permutations."""
    all_orders = np.array(list(permutations(range(count))))
    paid = np.zeros(len(all_orders))
    for reader in readers:
        inside = reader.channels[all_orders]
        if inside.any():
            gap = count - inside.argmax(axis=1) - inside[:, ::-1].argmax(axis=1) - reader.channels.sum()
            paid[gap > 0] += np.minimum(reader.copy, reader.widen * gap[gap > 0])
    return paid.min()


def random_readers(seed, most_readers=5, most_channels=7, priced=True):
    """Readers of random sets, small and large; priced: copying and widening cost something at random."""
    generator = np.random.default_rng(seed)
    count = int(generator.integers(1, most_channels + 1))
    sets = [
        generator.random(count) < generator.uniform(0.2, 0.8) for _ in range(generator.integers(1, most_readers + 1))
    ]
    if not priced:
        return [Reader(mask) for mask in sets], count
    copy, widen = generator.integers(0, 9, len(sets)), generator.choice([0, 0.3, 0.5, 1, 2, inf], len(sets))
    return [Reader(*reader) for reader in zip(sets, copy.tolist(), widen.tolist(), strict=True)], count


def planted(seed, readers, count, shortest=0):
    """Readers of slices of a hidden order."""
    generator = np.random.default_rng(seed)
    hidden = generator.permutation(count)
    ends = [sorted(generator.integers(0, count - shortest + 1, 2)) for _ in range(readers)]
    return masks([set(hidden[start : end + shortest].tolist()) for start, end in ends], count)
