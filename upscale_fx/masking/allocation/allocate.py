"""Spends a budget: finds the reads to drop so that the model meets the budget with the least predicted error.

1. ``Descent`` drops reads one by one, by the least error per saving, down to one channel everywhere.
2. ``choices`` makes sets of reads that meet the budget from that order; the set with the least error is taken.
3. Compaction measures its cost; the target is corrected by the difference, and 2 repeated until the budget is met.
4. Where the prices are far off (a whole branch is removed with its last reader), the order is searched with costs from
   liveness.

Limits: errors of different layers are added as if they were independent and equally bad for the outputs (weighting
them by the sensitivity of the outputs made results worse); weights are refitted only after the choice; and a budget of
a few channels for each layer is met no closer than the largest channel's cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from upscale_fx.analysis.identity import channel_ids
from upscale_fx.analysis.row_symbols import row_axes
from upscale_fx.analysis.size import counts_macs
from upscale_fx.channels.positions import Mask, Positions
from upscale_fx.channels.relations import Source
from upscale_fx.errors import AmountError
from upscale_fx.masking.allocation.bill import Bill
from upscale_fx.masking.allocation.budget import Budget
from upscale_fx.masking.allocation.call_rows import CallRows
from upscale_fx.masking.allocation.cost import Measured, cost_of, dense_cost
from upscale_fx.masking.allocation.fill import Window, bisected, choices
from upscale_fx.masking.allocation.greedy import Descent
from upscale_fx.masking.allocation.liveness import Liveness
from upscale_fx.masking.allocation.predicted import Errors
from upscale_fx.masking.allocation.reads import Reads, find_reads
from upscale_fx.masking.consumers.pools import Pool, Removal
from upscale_fx.masking.reconstruction.errors import ReconstructionError, energies, magnitudes, reconstruction_errors
from upscale_fx.masking.reconstruction.problem import consumers_of
from upscale_fx.masking.reconstruction.study import Study

#: The largest difference to the budget, as a share of it.
TOLERANCE = 0.01
#: How often the target is corrected by the measured cost.
_ROUNDS = 6


@dataclass(frozen=True)
class _Tried:
    """A set of live reads ``[R]``, and the difference of its cost to the target, as a share of the target."""

    gap: float
    alive: Mask


@dataclass
class Allocation:
    """The allocation of one budget.

    Attributes:
        study: the least-squares problems of the model; without moments reads are compared by magnitudes.
        removals: the eligible channels of every consumer; ``spend`` sets the removed ones.
        pools: the channels of every tensor, with scores by which channels of its heads are paired.
        budget: the budget.
        ridge: see :func:`upscale_fx.masking.reconstruction.errors.reconstruction_errors`.
        rows: the row counts of one call.
    """

    study: Study
    removals: Sequence[Removal]
    pools: Sequence[Pool]
    budget: Budget
    ridge: float
    rows: CallRows

    def __post_init__(self) -> None:
        self.consumers = [removal.consumer for removal in self.removals]
        self.liveness = Liveness(self.study.root, self.consumers, self.rows)

    def spend(self, measured: Measured) -> None:
        """Set the channels that every consumer loses: none if the dense model costs no more than the budget.

        Args:
            measured: computes the cost of the compacted model from the removed channels.

        Raises:
            AmountError: the budget is less than the least possible cost.
        """
        unit = self.budget.unit
        dense = dense_cost(self.study.root, self.rows).of(unit)
        target = self.budget.target(dense)
        traced = cost_of(self.study.root, self.rows).of(unit)
        if target >= traced:
            return
        masks = self._within(target, traced, measured)
        for removal, mask in zip(self.removals, masks, strict=True):
            removal.removed[:] = mask
            removal.amount = float(mask.sum() / max(removal.eligible.sum(), 1))
            if removal.eligible.any():
                removal.reason = "" if mask.any() else "the budget leaves it whole"

    def _within(self, target: float, traced: float, measured: Measured) -> list[Mask]:
        """The removed channels that meet the target, by the bill, corrected by the measured cost."""
        reads = self.reads()
        bill, errors = self.bill(reads), self._errors(reads)
        order = Descent(bill, errors, self.budget.sharing, self.study.progress).run()

        def real(alive: Mask) -> float:
            return measured(self.consumers, reads.removed(alive, self.consumers), self.rows).of(self.budget.unit)

        asked = target - (traced - bill.cost(reads.all))
        tried: list[_Tried] = []
        for _ in self.study.told(range(_ROUNDS), "measuring"):
            window = Window(asked - TOLERANCE / 2 * target, asked + TOLERANCE / 2 * target)
            alive = min(choices(bill, order, window), key=lambda own: errors.predicted(own, bill.gone(own)))
            cost = real(alive)
            repeated = any(np.array_equal(alive, other.alive) for other in tried)
            tried.append(_Tried((cost - target) / target, alive))
            if abs(tried[-1].gap) <= TOLERANCE or repeated:
                break
            asked = bill.cost(alive) - (cost - target)
        if not any(abs(one.gap) <= 2 * TOLERANCE for one in tried):
            window = Window(target * (1 - TOLERANCE), target * (1 + TOLERANCE))
            alive = bisected(lambda own: self._estimate(reads, own), reads, order, window)
            tried.append(_Tried((real(alive) - target) / target, alive))
        # Rather below a budget than above it: one step may exceed the tolerance.
        best = min(tried, key=lambda one: (one.gap > 2 * TOLERANCE, abs(one.gap)))
        if abs(best.gap) > 2 * TOLERANCE:
            self._check_possible(target, real(reads.left_by(order)))
        return reads.removed(best.alive, self.consumers)

    def _check_possible(self, target: float, least: float) -> None:
        if least > target:
            unit = self.budget.unit
            dense = dense_cost(self.study.root, self.rows).of(unit)
            raise AmountError(
                f"Budget({self.budget}) cannot be met: with one channel left everywhere the model still costs "
                f"{least:,.0f} {unit} of {dense:,.0f} ({least / dense:.2%}); raise it, or prune more channels "
                f"(inputs=True, a shorter ignore)"
            )

    def reads(self) -> Reads:
        """The reads; a channel that something other than a consumer reads is not free."""
        flow = self.study.flow
        ids = channel_ids(flow, through_cat=True)
        named = {node.name: node for node in flow.nodes}
        held: set[int] | None = None
        for last in (False, True):  # what is kept whichever channel each consumer has left
            kept = self.liveness.kept([_all_but_one(removal, last) for removal in self.removals])
            own = set()
            for node, mask in kept.items():
                old = named.get(node.name)
                if isinstance(self.liveness.flow.relations[node], Source):
                    continue  # an input, or zeros that are added into: it keeps all channels, though none is read
                if old is not None and old in ids and len(ids[old]) == len(mask):
                    own.update(ids[old][mask].tolist())
            held = own if held is None else held & own
        return find_reads(flow, self.removals, self.pools, held or set())

    def _errors(self, reads: Reads) -> Errors:
        """The errors of the layers, and magnitudes for reads that are in none of these errors."""
        study, units = self.study, reads.units
        layers = [self._scaled(e) for e in reconstruction_errors(study, units, self.ridge)] if study.moments else []
        unseen = magnitudes(energies(self.removals, study.root), units)
        for error in layers:
            unseen[error.units] = 0.0
        makers = [consumers_of(study.problems[error.problem]) for error in layers]
        return Errors(reads, layers, makers, unseen)

    def _scaled(self, error: ReconstructionError) -> ReconstructionError:
        """An error of attention's logits, as a share of an energy of at least 1 per logit; other errors as they are.

        A softmax turns an error of a logit into an equally large relative error of an attention weight, even where
        logits vary little. As shares of a small variance, such errors would count as much as lost features.
        """
        problem, moments = self.study.problems[error.problem], self.study.moments[error.problem]
        if not problem.logits or moments is None:
            return error
        return replace(error, scale=max(error.scale, moments.rows * moments.cross[:, 0].numel()))

    def bill(self, reads: Reads) -> Bill:
        """The prices; the cost of a slot besides weights is measured for one slot of every tensor."""
        price = np.array([self._price(removal) for removal in self.removals])
        rates = np.where(reads.outputs > 0, price / np.maximum(reads.outputs, 1.0), 0.0)
        several = np.array([c.kind == "weight" for c in self.consumers]) & (reads.outputs == 0)
        flat = np.where(several | np.array([c.kind == "vector" for c in self.consumers]), price, 0.0)
        fixed = np.array([float(removal.consumer.count - removal.eligible.sum()) for removal in self.removals])
        bill = Bill(reads, rates, flat, fixed, np.zeros(len(reads.ids)))
        whole = self._estimate(reads, reads.all)
        for slots in _alike(reads):
            alive = reads.slot != slots[-1]
            saved = bill.cost(reads.all) - bill.cost(alive)
            bill.extra[slots] = max(whole - self._estimate(reads, alive) - saved, 0.0)
        return bill

    def _estimate(self, reads: Reads, alive: Mask) -> float:
        return self.liveness.cost(reads.removed(alive, self.consumers)).of(self.budget.unit)

    def _price(self, removal: Removal) -> float:
        """The cost of one input channel of a consumer."""
        consumer, root, flow = removal.consumer, self.study.root, self.study.flow
        entries = {cut.target: cut.entries.shape[1] for cut in consumer.cuts}
        if self.budget.unit == "macs":
            calls = sum(self.rows.of(row_axes(flow.axes[site])) for site in consumer.sites if counts_macs(flow, site))
            return float(max(entries.values()) * calls)
        if self.budget.unit == "bytes":
            return float(sum(n * root.get_parameter(target).element_size() for target, n in entries.items()))
        return float(sum(entries.values()))


def _alike(reads: Reads) -> list[Positions]:
    """The free slots in groups that the same layers make and read."""
    rows = reads.rows
    layers: list[list[tuple[int, int]]] = [[] for _ in reads.ids]
    for slot, maker in zip(rows.slot.tolist(), rows.maker.tolist(), strict=True):
        layers[slot].append((0, maker))
    for slot, consumer in zip(reads.slot.tolist(), reads.consumer.tolist(), strict=True):
        layers[slot].append((1, consumer))
    alike: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for slot in np.flatnonzero(reads.free).tolist():
        alike.setdefault(tuple(sorted(layers[slot])), []).append(slot)
    return [np.array(slots, dtype=np.int64) for slots in alike.values()]


def _all_but_one(removal: Removal, last: bool) -> Mask:
    """All eligible channels but the first, or the last, of every head."""
    removed = removal.eligible.copy()
    blocks = removal.consumer.blocks
    heads = blocks if blocks is not None else np.zeros(len(removed), dtype=np.int64)
    for head in np.unique(heads):
        own = np.flatnonzero(removed & (heads == head))
        if len(own):
            removed[own[-1 if last else 0]] = False
    return removed
