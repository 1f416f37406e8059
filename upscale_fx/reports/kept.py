"""Which channels of the original model every consumer still reads, as data."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from upscale_fx.channels.positions import Positions
from upscale_fx.compacting.rewrite.origins import origin_of
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.masking.consumers.consumer import Consumer


def kept_channels(compiled: CompiledGNN, consumers: Iterable[Consumer]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return by name of a consumer the original numbers of its channels, and a mask over all channels it had.

    A consumer whose parameters a fold made, or whose channels have no entries in common places, has neither.
    """
    kept: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for consumer in consumers:
        numbers, width = _numbers(compiled, consumer)
        if numbers is not None:
            kept[consumer.name] = torch.from_numpy(numbers)
            masks[consumer.name] = torch.zeros(width, dtype=torch.bool)
            masks[consumer.name][kept[consumer.name]] = True
    return kept, masks


def _numbers(compiled: CompiledGNN, consumer: Consumer) -> tuple[Positions | None, int]:
    """The original number of every channel, and how many the original has.

    A channel of a weight is a column, one of an attention vector an entry, one of a product a row: whatever indices
    all its entries share, counted over these axes alone.
    """
    cut = consumer.cuts[0]
    lines = cut.lines()
    origin = origin_of(compiled, cut.target)
    axes = np.flatnonzero((lines >= 0).all(axis=0))
    if not len(axes) or len(origin.shape) != len(cut.shape) or cut.shape != origin.present_shape:
        return None, 0
    first = np.where(cut.entries >= 0, cut.entries, cut.entries.max(axis=1, keepdims=True))[:, 0]
    places = np.unravel_index(origin.places.reshape(-1)[first], origin.shape)
    shape = tuple(origin.shape[axis] for axis in axes)
    numbers = np.ravel_multi_index(tuple(places[axis] for axis in axes), shape)
    _, order = np.unique(numbers, return_index=True)
    return numbers[np.sort(order)].astype(np.int64), int(np.prod(shape))
