"""The relation of convolutions: contractions over input channels that keep all spatial positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import fx

from upscale_fx.channels.positions import Mask, Masks, Positions
from upscale_fx.channels.relations import Relation


@dataclass(frozen=True)
class Convolution(Relation):
    """``x [B, I, *space]`` under ``weight [O, I, *kernel]``, plus ``bias [O]``: one group, any stride and padding.

    A channel is read and computed at all spatial positions or at none.

    Attributes:
        x: the image.
        weight: the kernel.
        bias: added to every output, or None.
        channels: O and I.
        places: the numbers of spatial positions of the result, of ``x`` and of the kernel.
    """

    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    channels: tuple[int, int]
    places: tuple[int, int, int]

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        return tuple(n for n in (self.x, self.weight, self.bias) if n is not None)

    def pattern(self, nonzero: Masks) -> Mask:
        """Return which outputs read which inputs, ``[O, I]``."""
        pattern: Mask = np.logical_or.reduce(nonzero[self.weight].reshape(*self.channels, -1), axis=2)
        return pattern

    def nonzero(self, count: int, nonzero: Masks) -> Mask:
        x = _anywhere(nonzero[self.x], self.channels[1])
        outputs: Mask = np.logical_or.reduce(self.pattern(nonzero) & x, axis=1)
        if self.bias is not None:
            outputs = outputs | nonzero[self.bias]
        return np.repeat(outputs, self.places[0])

    def inputs(self, outputs: Mask, nonzero: Masks) -> Mask:
        """Which input channels some of these output channels read; at least one if there are any."""
        x = _anywhere(nonzero[self.x], self.channels[1])
        reads: Mask = x & np.logical_or.reduce(self.pattern(nonzero)[outputs], axis=0)
        reads[0] |= bool(outputs.any() and not reads.any())  # only the bias is left, but the call needs an image
        return reads

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        outputs = _anywhere(needed, self.channels[0])
        inputs = self.inputs(outputs, nonzero)
        yield self.x, np.repeat(inputs, self.places[1])
        yield self.weight, np.repeat((outputs[:, None] & inputs).reshape(-1), self.places[2])
        if self.bias is not None:
            yield self.bias, outputs

    def columns(self) -> tuple[Positions, Positions]:
        """Return the positions of input channels in ``x``, ``[places, I]``, and the channel of each weight entry."""
        outputs, inputs = self.channels
        x = np.arange(inputs * self.places[1], dtype=np.int64).reshape(inputs, -1).T
        return x, np.tile(np.repeat(np.arange(inputs, dtype=np.int64), self.places[2]), outputs)


def _anywhere(positions: Mask, channels: int) -> Mask:
    """Return which channels have any of these positions."""
    mask: Mask = np.logical_or.reduce(positions.reshape(channels, -1), axis=1)
    return mask
