"""The order in which reads are dropped: greedy, always the step with the least error per saving.

There are two kinds of steps: one consumer stops reading a slot, or all do, which also saves the rows of the layers that
make it. So consumers share channels where that pays, and choose alone where it does not; if one kind of step is not
allowed, all share or all choose alone. Errors are those of the reading layers, with the best weights on the live reads,
as shares of the energy of the outputs; outputs without a reader do not count. A dropped read stays dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from upscale_fx.channels.positions import Mask
from upscale_fx.compiled.progress import progress_bar
from upscale_fx.masking.allocation.bill import Bill
from upscale_fx.masking.allocation.predicted import Errors
from upscale_fx.masking.reconstruction.elimination import QuadraticError

#: The least saving of a step, so that steps that save nothing come last.
_LEAST = 1e-9


@dataclass
class Descent:
    """The order in which reads are dropped.

    Attributes:
        bill: the cost of reads.
        errors: the errors of the reading layers.
        sharing: ``"auto"``, ``"always"`` or ``"never"``.
        progress: show a bar, where standard error is a terminal.
    """

    bill: Bill
    errors: Errors
    sharing: str
    progress: bool = True
    _alive: Mask = field(init=False)

    def __post_init__(self) -> None:
        reads, layers = self.bill.reads, self.errors.layers
        self._quadratic = [QuadraticError(e.left.copy(), e.left @ e.weight, e.variables, e.scale) for e in layers]
        self._alive, self._gone = reads.all, self.bill.gone(reads.all)
        self._error = self.errors.unseen.copy()
        self._own = [quadratic.costs() for quadratic in self._quadratic]
        self._unread = [np.zeros(e.weight.shape[1], dtype=bool) for e in layers]
        self._where: list[list[tuple[int, int]]] = [[] for _ in reads.slot]
        for number, error in enumerate(layers):
            self._error[error.units] += self._own[number]
            for k, unit in enumerate(error.units.tolist()):
                self._where[unit].append((number, k))

    def run(self) -> list[list[int]]:
        """Drop reads until every consumer has one slot left; returns them in that order, each step a list."""
        order: list[list[int]] = []
        reads, fixed = self.bill.reads, self.bill.fixed > 0
        bar = progress_bar(total=len(reads.slot), desc="allocating", leave=False, shown=self.progress)
        with bar:
            while True:
                left = np.bincount(reads.consumer[self._alive], minlength=len(fixed))
                last = (left + fixed <= 1)[reads.consumer]
                step = self._cheapest(last)
                if step is None:
                    return order
                self._drop(step)
                order.append(step)
                bar.update(len(step))

    def _cheapest(self, last: Mask) -> list[int] | None:
        """The reads of the step with the least error per saving; None if there is none."""
        alive, reads = self._alive, self.bill.reads
        slots = len(reads.ids)
        alone, together = self.bill.savings(alive)
        best, step = np.inf, None
        if self.sharing != "always" and len(alone):
            ratio = np.where(alive & ~last, self._error / np.maximum(alone, _LEAST), np.inf)
            k = int(np.argmin(ratio))
            if ratio[k] < best:
                best, step = float(ratio[k]), [k]
        if self.sharing != "never" and slots:
            blocked = np.bincount(reads.slot[alive & last], minlength=slots) > 0
            readers = np.bincount(reads.slot[alive], minlength=slots)
            error = np.bincount(reads.slot[alive], self._error[alive], minlength=slots)
            ratio = np.where((readers > 0) & ~blocked, error / np.maximum(together, _LEAST), np.inf)
            k = int(np.argmin(ratio))
            if ratio[k] < best:
                step = np.flatnonzero(alive & (reads.slot == k)).tolist()
        return step

    def _drop(self, step: list[int]) -> None:
        touched: set[int] = set()
        for read in step:
            self._alive[read] = False
            for number, k in self._where[read]:
                self._quadratic[number].drop(k)
                touched.add(number)
        touched |= self._drop_outputs()
        for number in touched:
            fresh = self._quadratic[number].costs()
            self._error[self.errors.layers[number].units] += fresh - self._own[number]
            self._own[number] = fresh

    def _drop_outputs(self) -> set[int]:
        """Remove outputs without a reader from the errors; returns the errors that this changes."""
        gone = self.bill.gone(self._alive)
        touched = set()
        for row in np.flatnonzero(gone & ~self._gone).tolist():
            for number, outputs in self.errors.touched[row]:
                fresh = outputs[~self._unread[number][outputs]]
                if len(fresh):
                    self._unread[number][fresh] = True
                    self._quadratic[number].drop_outputs(fresh)
                    touched.add(number)
        self._gone = gone
        return touched
