"""The order of channels: the permutation in which reading costs least.

A reader whose channels are contiguous reads a view, for nothing. Another pays for a copy, or reads everything that
stands between its first and its last channel against weights of zero, whichever is cheaper.

What is exact: readers fall into groups that can be ordered independently (``consecutive.overlap_components``), and
channels that the same readers read into *atoms* that stand together. A group is ordered optimally

- if an order exists in which all its readers read views;
- if widening never pays (``widen >= copy``, the default) and the search for the readers to copy ends within
  ``order_search.EXACT_STEPS`` steps: always for up to 8 distinct readers, for more where few are to be copied;
- if it is small: ``atoms * 2**atoms * readers * 2**readers`` at most ``order_search.EXACT_WORK``, as for 8 readers and
  12 atoms. (Readers of the same channels are one here, with the power of two replaced by one more than their different
  prices.)

Otherwise the order is a good one, found in polynomial time: the best of many greedy insertions, improved by local
search. No order costs less than ``cost_lower_bound``, which may be too low only where the order may not be the best.

Why atoms stand together in some best order: let an atom's channels be spread over places s between the others, n_s of
them at each. For a reader that does not read them, the gap is linear in n, and the cost is a concave function of it: it
is at least the mean, weighted by n_s, of what it is with the whole atom at place s. For a reader that does, the span
covers all of these places, so that moving the atom to any one of them does not widen it. Hence one of these moves does
not cost more in total. No other atom is torn by it. The same argument shows that a reader which overlaps no other one
can be contiguous, and so can the union of each group.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from upscale_fx.channels.positions import Mask, Positions
from upscale_fx.compacting.order.consecutive import conflict_bound
from upscale_fx.compacting.order.groups import Reader, as_reader, groups_of
from upscale_fx.compacting.order.pq_tree import Tree
from upscale_fx.compacting.order.search import least_cost, solve


def choose_order(readers: Sequence[Reader | Mask], count: int) -> Positions:
    """A permutation of ``count`` channels that costs its readers little; see above where it is the least possible.

    A plain mask is a reader for which only a copy comes into question. The order depends on neither the order of the
    readers nor chance. Channels that no reader needs elsewhere keep their original order.
    """
    groups = groups_of(readers)
    if not groups:
        return np.arange(count, dtype=np.int64)
    tree = Tree.of_all_orders(count)
    for group in groups:
        for together in group.constraints(solve(group)):
            tree = tree.reduce(together) or tree  # never None: what groups require is disjoint or nested
    return np.array(tree.frontier(), dtype=np.int64)


def contiguous(order: Positions, mask: Mask) -> bool:
    """Whether a set is contiguous in an order."""
    return _gap(order, mask) == 0


def order_cost(readers: Sequence[Reader | Mask], order: Positions) -> float:
    """What all readers pay in an order."""
    gaps = ((reader, _gap(order, reader.channels)) for reader in map(as_reader, readers))
    return float(sum(min(reader.copy, reader.widen * gap) for reader, gap in gaps if gap))


def cost_lower_bound(readers: Sequence[Reader | Mask]) -> float:
    """A cost that no order can undercut: the least cost itself where ``choose_order`` is exact."""
    groups = groups_of(readers)
    conflicts = [conflict_bound(group.sets, group.penalties.tolist(), len(group.atoms)) for group in groups]
    return float(sum(max(least_cost(group), bound) for group, bound in zip(groups, conflicts, strict=True)))


def copies_lower_bound(readers: Sequence[Reader | Mask]) -> int:
    """How many readers cannot read a view, at least, whatever the order."""
    return round(cost_lower_bound([as_reader(reader).channels for reader in readers]))


def _gap(order: Positions, mask: Mask) -> int:
    places = np.flatnonzero(mask[order])
    return int(places[-1] - places[0]) + 1 - len(places) if len(places) else 0
