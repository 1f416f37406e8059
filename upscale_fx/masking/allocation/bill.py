"""The bill: a formula for the cost of reads, so that thousands of choices can be priced.

A layer costs its rate for every pair of a live input channel and a needed output channel. A slot that is read has an
extra cost (biases, batch norms, attention's own products). The cost of the rest of a model is constant. Compaction can
leave a little more, where a copy would cost more than an extra channel: its result is measured, and the formula
corrected by the difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from upscale_fx.channels.positions import Mask, Numbers
from upscale_fx.masking.allocation.reads import Reads


@dataclass
class Bill:
    """Prices of reads.

    Attributes:
        reads: the reads.
        rates: ``[C]``, cost of one pair of an input and an output channel of each consumer.
        flat: ``[C]``, cost of one input channel of a consumer whose outputs are not channels (attention's vectors).
        fixed: ``[C]``, input channels that must be kept.
        extra: ``[S]``, cost of a slot besides its rows and its readers' columns.
    """

    reads: Reads
    rates: Numbers
    flat: Numbers
    fixed: Numbers
    extra: Numbers

    def inputs(self, alive: Mask) -> Numbers:
        """``[C]``: input channels that each consumer still reads."""
        reads = self.reads
        return self.fixed + np.bincount(reads.consumer[alive], reads.sizes[alive], minlength=len(self.fixed))

    def gone(self, alive: Mask) -> Mask:
        """``[K]``: rows that no live read needs."""
        return self._settled(alive)[1]

    def _settled(self, alive: Mask) -> tuple[Mask, Mask]:
        """The live reads, and the dead rows. A layer whose outputs are all dead reads nothing.

        So a whole branch dies with the last read of its outputs.
        """
        reads, rows = self.reads, self.reads.rows
        while True:
            gone: Mask = reads.free[rows.slot] & (rows.readers(alive) == 0)
            idle = (reads.outputs > 0) & (self.outputs(gone) < 1)
            dead = alive & idle[reads.consumer]
            if not dead.any():
                return alive, gone
            alive = alive & ~dead

    def outputs(self, gone: Mask) -> Numbers:
        """``[C]``: live output channels of each consumer."""
        rows = self.reads.rows
        lost = np.bincount(rows.maker[gone], rows.sizes[gone], minlength=len(self.fixed))
        made: Numbers = self.reads.outputs - lost
        return made

    def cost(self, alive: Mask) -> float:
        """The cost of the live reads."""
        reads = self.reads
        alive, gone = self._settled(alive)
        layers = (self.rates * self.outputs(gone) + self.flat) @ self.inputs(alive)
        read = np.bincount(reads.slot[alive], minlength=len(reads.ids)) > 0
        return float(layers + self.extra[read & reads.free].sum())

    def savings(self, alive: Mask) -> tuple[Numbers, Numbers]:
        """The saving of dropping each read ``[R]`` alone, and each slot ``[S]`` with all its reads."""
        reads, rows, slots = self.reads, self.reads.rows, len(self.reads.ids)
        column = reads.sizes * (self.rates * self.outputs(self.gone(alive)) + self.flat)[reads.consumer]
        row = np.where(reads.free[rows.slot], rows.sizes * (self.rates * self.inputs(alive))[rows.maker], 0.0)
        needed = rows.readers(alive)
        extra = np.where(reads.free, self.extra, 0.0)
        readers = np.bincount(reads.slot[alive], minlength=slots)
        last = alive[rows.read] & (needed[rows.needed] == 1)
        alone = column + np.bincount(rows.read[last], row[rows.needed[last]], minlength=len(reads.slot))
        alone += np.where(readers == 1, extra, 0.0)[reads.slot]
        together: Numbers = extra + np.bincount(reads.slot[alive], column[alive], minlength=slots)
        together = together + np.bincount(rows.slot[needed > 0], row[needed > 0], minlength=slots)
        return alone, together
