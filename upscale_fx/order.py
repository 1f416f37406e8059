"""The order of channels: which permutation lets most readers read a contiguous slice.

For two readers there always is one: own, shared, own. For more this is the consecutive-ones property; here readers are
placed one by one, the costliest first, and one that cannot be made contiguous any more is left to copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from upscale_fx.channels import Mask, Positions


def choose_order(sets: Sequence[Mask], count: int) -> Positions:
    """A permutation of ``count`` channels in which many of the ``sets`` (masks over channels) are contiguous.

    Sets are taken largest first. Channels that no order needs to tell apart keep their original order. Runs in
    O(readers^2 * channels).
    """
    distinct = {mask.tobytes(): mask for mask in sets if 0 < mask.sum() < count}
    ordered = sorted(distinct.values(), key=lambda mask: (-int(mask.sum()), tuple(np.flatnonzero(mask).tolist())))
    blocks: list[Positions] = []
    for mask in ordered:
        placed = _place(blocks, mask)
        if placed is not None:
            blocks = placed
    rest = np.setdiff1d(np.arange(count), np.concatenate(blocks)) if blocks else np.arange(count)
    return np.concatenate([*blocks, rest]).astype(np.int64)


def _place(blocks: list[Positions], mask: Mask) -> list[Positions] | None:
    """Refine the ordered blocks so that ``mask`` becomes contiguous, or None where they do not allow it."""
    known = np.concatenate(blocks) if blocks else np.empty(0, dtype=np.int64)
    new = np.setdiff1d(np.flatnonzero(mask), known)
    hits = [int(mask[block].sum()) for block in blocks]
    touched = [i for i, hit in enumerate(hits) if hit]
    if not touched:
        return [*blocks, new]
    first, last = touched[0], touched[-1]
    inner = range(first + 1, last)
    if any(hits[i] != len(blocks[i]) for i in inner):
        return None
    full = {i: hits[i] == len(blocks[i]) for i in (first, last)}
    end = len(blocks) - 1
    if first == last and not full[first]:
        return _split_one(blocks, mask, first, new, end)
    # New channels can only go where the set reaches an end of the order.
    at_end = last == end and full[last]
    at_start = first == 0 and full[first]
    if len(new) and not (at_end or at_start):
        return None
    result: list[Positions] = []
    for i, block in enumerate(blocks):
        inside, outside = block[mask[block]], block[~mask[block]]
        if i == first and not full[first]:
            result += [outside, inside]
        elif i == last and not full[last]:
            result += [inside, outside]
        else:
            result.append(block)
    if len(new):
        result = [*result, new] if at_end else [new, *result]
    return result


def _split_one(blocks: list[Positions], mask: Mask, place: int, new: Positions, end: int) -> list[Positions] | None:
    """Place a set that touches part of a single block."""
    block = blocks[place]
    inside, outside = block[mask[block]], block[~mask[block]]
    if not len(new):
        return [*blocks[:place], inside, outside, *blocks[place + 1 :]]
    if place == end:
        return [*blocks[:place], outside, inside, new]
    if place == 0:
        return [new, inside, outside, *blocks[1:]]
    return None


def contiguous(order: Positions, mask: Mask) -> bool:
    """Whether a set is contiguous in an order."""
    places = np.flatnonzero(mask[order])
    return len(places) == 0 or int(places[-1] - places[0]) + 1 == len(places)
