"""Choices that meet a cost, made from the order in which reads are dropped.

Steps are of very different sizes: where a layer reads raw features, one of its output channels may cost a tenth of a
budget. So there are two choices, one step short of the cost and one step beyond it, and each is corrected by small
steps: the first, too dear, drops later reads that are cheap enough; the second, too cheap, takes back reads, those
dropped last first. The caller takes the one with the smaller error.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from upscale_fx.channels.positions import Mask
from upscale_fx.masking.allocation.bill import Bill
from upscale_fx.masking.allocation.reads import Reads

#: So many steps may be left out of runs of reads that are taken back.
_RUNS = 24


@dataclass(frozen=True)
class Window:
    """The costs that are accepted: from ``least`` to ``most``."""

    least: float
    most: float


def choices(bill: Bill, order: Sequence[Sequence[int]], window: Window) -> list[Mask]:
    """Up to two sets of reads that are left, whose costs are in a window, or as near below or above as one step is."""
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
    """A set of reads in the window, or below it, with few looks at a cost that a bill does not foresee.

    From the first set of the order that is not too dear reads are taken back, the latest first, in runs as long as the
    window allows; the step that ends a run (one that brings a whole branch back, say) stays dropped.
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
    """The least number below ``count`` of which something holds that holds for all larger ones; else ``count``."""
    return bisect_left(range(count), True, key=holds)


def _with(alive: Mask, steps: Sequence[Sequence[int]]) -> Mask:
    """More reads: those of some steps."""
    more = alive.copy()
    for step in steps:
        more[np.asarray(step, dtype=np.int64)] = True
    return more


def _taken_back(bill: Bill, alive: Mask, steps: Sequence[Sequence[int]], window: Window) -> Mask:
    """Read again what was dropped last, as far as the window allows."""
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
