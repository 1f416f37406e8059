"""The predicted error of a choice: the error of the best weights on the live reads.

For a quadratic error with Hessian ``A`` and minimum ``W``, dropped variables ``S`` and kept variables ``K``, it is
``tr(W_S' (A_SS - A_SK inv(A_KK) A_KS) W_S)`` over the outputs that are still needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from upscale_fx.channels.positions import Mask, Numbers, Positions
from upscale_fx.masking.allocation.reads import Reads
from upscale_fx.masking.reconstruction.errors import ReconstructionError


@dataclass
class Errors:
    """The errors of all layers.

    Attributes:
        reads: the reads.
        layers: the layers' errors, whose units are reads.
        makers: for each error, the consumers whose weights it fits.
        unseen: ``[R]``, errors of reads that are in no layer's error.
        touched: for each row of the reads, the (error, outputs) pairs that it makes.
    """

    reads: Reads
    layers: Sequence[ReconstructionError]
    makers: Sequence[set[int]]
    unseen: Numbers
    touched: list[list[tuple[int, Positions]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows = self.reads.rows
        by_maker: dict[int, list[int]] = {}
        for number, makers in enumerate(self.makers):
            for maker in makers:
                by_maker.setdefault(maker, []).append(number)
        for slot, maker in zip(rows.slot.tolist(), rows.maker.tolist(), strict=True):
            own = []
            for number in by_maker.get(maker, ()):
                ids = self.layers[number].outputs
                here = np.flatnonzero(np.isin(ids, self.reads.ids[slot])) if ids is not None else ()
                if len(here):
                    own.append((number, np.asarray(here, dtype=np.int64)))
            self.touched.append(own)

    def predicted(self, alive: Mask, gone: Mask) -> float:
        """The sum of all errors with the live reads ``alive [R]``; dead rows ``gone [K]`` do not count."""
        wanted = [np.ones(error.weight.shape[1], dtype=bool) for error in self.layers]
        for row in np.flatnonzero(gone).tolist():
            for number, outputs in self.touched[row]:
                wanted[number][outputs] = False
        lost = [_lost(error, alive, own) / error.scale for error, own in zip(self.layers, wanted, strict=True)]
        return float(self.unseen[~alive].sum()) + sum(lost)


def _lost(error: ReconstructionError, alive: Mask, wanted: Mask) -> float:
    variables = error.variables[~alive[error.units]]
    drop = np.zeros(len(error.left), dtype=bool)
    drop[variables[variables >= 0]] = True
    if not drop.any():
        return 0.0
    weight, held = error.weight[np.ix_(drop, wanted)], ~drop
    pulled = error.left[:, drop] @ weight
    lost = (weight * pulled[drop]).sum()
    if held.any():
        lost -= (pulled[held] * np.linalg.solve(error.left[np.ix_(held, held)], pulled[held])).sum()
    return max(float(lost), 0.0)
