"""The activation criterion: weights times activations, the contribution of each channel to the outputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from upscale_fx.channels.positions import Numbers
from upscale_fx.masking.reconstruction.errors import Choice
from upscale_fx.masking.reconstruction.solve import RIDGE


@dataclass(frozen=True)
class Activation:
    """Drop the channels that contribute least: the norm of their weights times the RMS of their values.

    The score of Wanda (Sun et al., "A simple and effective pruning approach for large language models", ICLR 2024,
    equation 1) on whole input channels. It is the root of the error, as a share of the outputs' energy, if only this
    channel is removed and nothing compensates; energies of several layers are added.

    Attributes:
        ridge: not used; reconstruction errors have one.
    """

    ridge: float = RIDGE

    def rank(self, choice: Choice) -> Numbers:
        """Scores ``[U]``: norms of contributions, as shares of the norm of the outputs."""
        energy = choice.unseen
        for error in choice.errors:
            here = error.variables >= 0
            own = error.gram.diagonal() * np.square(error.weight).sum(axis=1) / error.scale
            np.add.at(energy, error.units, (own[error.variables] * here).sum(axis=1))
        return np.sqrt(energy)
