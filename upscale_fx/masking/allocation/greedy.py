"""Which reads to drop, in which order: always what costs least error for what it saves.

Two kinds of steps are weighed against each other, channel by channel: one consumer stops reading a slot, or all do,
which also saves the rows of the layers that make it. So consumers share channels where that pays and choose alone where
it does not; the pure ways are what is left if one kind of step is not allowed. Errors are those of the layers that
read, as shares of their outputs' energy, with the best weights on what is left; outputs that nobody needs any more stop
counting. Only one step is looked ahead, and what has gone does not come back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from upscale_fx.channels.positions import Mask
from upscale_fx.compiled.progress import progress_bar
from upscale_fx.masking.allocation.bill import Bill
from upscale_fx.masking.allocation.predicted import Errors
from upscale_fx.masking.reconstruction.elimination import Surgeon

#: The least a step counts as saving: one that saves nothing is the last that is worth anything.
_LEAST = 1e-9


@dataclass
class Descent:
    """The order in which reads are dropped.

    Attributes:
        bill: what reads cost.
        errors: the errors of the layers that read.
        sharing: ``"auto"``, ``"always"`` or ``"never"``.
        progress: show a bar, where standard error is a terminal.
    """

    bill: Bill
    errors: Errors
    sharing: str
    progress: bool = True
    _alive: Mask = field(init=False)

    def __post_init__(self) -> None:
        reads, found = self.bill.reads, self.errors.found
        self._surgeons = [Surgeon(e.left.copy(), e.left @ e.weight, e.variables, e.scale) for e in found]
        self._alive, self._gone = reads.all, self.bill.gone(reads.all)
        self._error = self.errors.unseen.copy()
        self._own = [surgeon.costs() for surgeon in self._surgeons]
        self._unread = [np.zeros(e.weight.shape[1], dtype=bool) for e in found]
        self._where: list[list[tuple[int, int]]] = [[] for _ in reads.slot]
        for number, error in enumerate(found):
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
        best, found = np.inf, None
        if self.sharing != "always" and len(alone):
            ratio = np.where(alive & ~last, self._error / np.maximum(alone, _LEAST), np.inf)
            k = int(np.argmin(ratio))
            if ratio[k] < best:
                best, found = float(ratio[k]), [k]
        if self.sharing != "never" and slots:
            blocked = np.bincount(reads.slot[alive & last], minlength=slots) > 0
            readers = np.bincount(reads.slot[alive], minlength=slots)
            error = np.bincount(reads.slot[alive], self._error[alive], minlength=slots)
            ratio = np.where((readers > 0) & ~blocked, error / np.maximum(together, _LEAST), np.inf)
            k = int(np.argmin(ratio))
            if ratio[k] < best:
                found = np.flatnonzero(alive & (reads.slot == k)).tolist()
        return found

    def _drop(self, step: list[int]) -> None:
        touched: set[int] = set()
        for read in step:
            self._alive[read] = False
            for number, k in self._where[read]:
                self._surgeons[number].drop(k)
                touched.add(number)
        touched |= self._forget()
        for number in touched:
            fresh = self._surgeons[number].costs()
            self._error[self.errors.found[number].units] += fresh - self._own[number]
            self._own[number] = fresh

    def _forget(self) -> set[int]:
        """Outputs that nobody needs any more may be as wrong as they like."""
        gone = self.bill.gone(self._alive)
        touched = set()
        for row in np.flatnonzero(gone & ~self._gone).tolist():
            for number, outputs in self.errors.touched[row]:
                fresh = outputs[~self._unread[number][outputs]]
                if len(fresh):
                    self._unread[number][fresh] = True
                    self._surgeons[number].forget(fresh)
                    touched.add(number)
        self._gone = gone
        return touched
