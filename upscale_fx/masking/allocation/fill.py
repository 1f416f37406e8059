"""Sets of reads that meet a cost, made from the order in which reads are dropped.

Steps differ much in size: where a layer reads raw features, one of its output channels may cost a tenth of a budget. So
just before the cost is met a set is too expensive, and one step later too cheap. Small steps correct both: the
expensive set drops later steps that are small enough, the cheap set takes back earlier steps, the latest first. The
caller chooses the set with less error.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from upscale_fx.channels.positions import Mask
from upscale_fx.masking.allocation.bill import Bill
from upscale_fx.masking.allocation.reads import Reads

#: The largest number of runs of steps that :func:`bisected` takes back.
_RUNS = 24


@dataclass(frozen=True)
class Window:
    """The range of costs to meet."""

    least: float
    most: float


def choices(bill: Bill, order: Sequence[Sequence[int]], window: Window) -> list[Mask]:
    """One or two sets of live reads whose costs are in a window, or below it by less than one step."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        cheap = bill.cost(bill.reads.left_by(order[:middle])) <= window.most
        low, high = (low, middle) if cheap else (middle + 1, high)
    below = bill.reads.left_by(order[:low])
    if bill.cost(below) >= window.least or not low:
        return [below]
    affordable = [_taken_back(bill, below, order[:low], window)]
    above = _dropped(bill, bill.reads.left_by(order[: low - 1]), order[low:], window)
    if bill.cost(above) <= window.most:
        affordable.append(above)
    return affordable


def bisected(cost: Callable[[Mask], float], reads: Reads, order: Sequence[Sequence[int]], window: Window) -> Mask:
    """A set of live reads whose cost is in the window, or below it, with few calls of a slow ``cost``.

    It starts at the first set of the order that is not too expensive, and takes reads back, the latest first, in runs
    as long as the window allows. The step that ends a run (one that brings a whole branch back, say) stays dropped.
    """
    low = _first(len(order), lambda count: cost(reads.left_by(order[:count])) <= window.most)
    alive, steps = reads.left_by(order[:low]), list(reversed(order[:low]))
    for _ in range(_RUNS):
        if not steps or cost(alive) >= window.least:
            break

        def too_dear(count: int, alive: Mask = alive, steps: Sequence[Sequence[int]] = tuple(steps)) -> bool:
            return cost(_with(alive, steps[: count + 1])) > window.most

        run = _first(len(steps), too_dear)
        alive, steps = _with(alive, steps[:run]), steps[run + 1 :]
    return alive


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """The least number below ``count`` for which ``holds`` is true, as for all larger ones; else ``count``."""
    return bisect_left(range(count), True, key=holds)


def _with(alive: Mask, steps: Sequence[Sequence[int]]) -> Mask:
    """The live reads with those of some steps."""
    more = alive.copy()
    for step in steps:
        more[np.asarray(step, dtype=np.int64)] = True
    return more


def _taken_back(bill: Bill, alive: Mask, steps: Sequence[Sequence[int]], window: Window) -> Mask:
    """Take back the steps dropped last, as far as the window allows."""
    alive, cost = alive.copy(), bill.cost(alive)
    for step in reversed(steps):
        if cost >= window.least:
            break
        alive[step] = True
        dearer = bill.cost(alive)
        if dearer <= window.most:
            cost = dearer
        else:
            alive[step] = False
    return alive


def _dropped(bill: Bill, alive: Mask, steps: Sequence[Sequence[int]], window: Window) -> Mask:
    """Drop more, as far as the window allows."""
    alive, cost = alive.copy(), bill.cost(alive)
    for step in steps:
        if cost <= window.most:
            break
        alive[step] = False
        cheaper = bill.cost(alive)
        if cheaper >= window.least:
            cost = cheaper
        else:
            alive[step] = True
    return alive
