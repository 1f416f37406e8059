"""Optimal Brain Surgeon on input channels: greedy backward elimination with optimal compensation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from upscale_fx.channels.positions import Numbers
from upscale_fx.masking.reconstruction.elimination import Membership, QuadraticError, eliminate
from upscale_fx.masking.reconstruction.errors import Choice
from upscale_fx.masking.reconstruction.solve import RIDGE


@dataclass(frozen=True)
class OBS:
    """Repeatedly drop the channel with the least error after the best weights on all others compensate for it.

    After Hassibi and Stork ("Optimal Brain Surgeon", NeurIPS 1992), with whole input channels instead of weights, and
    the exact Hessian of the layer's reconstruction error. Layers whose outputs are added have one common error.

    Attributes:
        ridge: added to the Hessian, as a share of its diagonal.
    """

    ridge: float = RIDGE

    def rank(self, choice: Choice) -> Numbers:
        """Scores ``[U]``: the error, as a share of the outputs' energy, up to the removal of each unit.

        Units that are kept when every block has lost its quota score infinity.
        """
        problems = [
            Membership(QuadraticError(e.left.copy(), e.left @ e.weight, e.variables, e.scale), e.units)
            for e in choice.errors
        ]
        order = eliminate(problems, choice.pools, choice.quotas, choice.unseen)
        scores = np.full(len(choice.pools), np.inf)
        largest = np.zeros(len(choice.quotas))
        for unit, cost in order:  # at least the score of the unit before, so that ranks follow the order
            block = choice.pools[unit]
            scores[unit] = largest[block] = max(cost, np.nextafter(largest[block], np.inf))
        return scores
