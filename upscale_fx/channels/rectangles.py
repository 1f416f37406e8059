"""Rectangular layouts: how free the layout of a value is, and the smallest rectangle that holds some positions."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from upscale_fx.channels.positions import Axes, Mask, Positions


class Level(IntEnum):
    """How free the layout of a value is. A rewriter that cannot express a layout raises the level and starts again."""

    RAGGED = 0  # cells of the axes before the last wide axis (heads) may keep different channels of it
    GRID = 1  # one list of channels per axis
    IDENTITY = 2  # all channels, in place


def closure(mask: Mask, axes: Axes, level: Level, blocks: Positions | None) -> Mask:
    """Return the smallest rectangular superset of ``mask``, padded with the first free positions of a block or cell."""
    if level is Level.IDENTITY:
        return np.ones_like(mask)
    wide = axes.wide
    if level is Level.GRID and len(wide) > 1:
        grid = mask.reshape(axes.shape)
        result = np.ones(axes.shape, dtype=bool)
        for axis in wide:
            others = tuple(a for a in range(grid.ndim) if a != axis)
            result &= grid.any(axis=others, keepdims=True)
        return result.reshape(-1)
    if blocks is not None:
        mask = _level_out(mask, blocks)
    if len(wide) > 1:
        mask = _level_out(mask, cells(axes))
    return mask


def cells(axes: Axes) -> Positions:
    """Return the cell of each position: its index along all wide axes but the last."""
    last = axes.shape[axes.wide[-1]] if axes.wide else 1
    return np.arange(axes.count, dtype=np.int64) // last


def _level_out(mask: Mask, blocks: Positions) -> Mask:
    counts = np.bincount(blocks[mask], minlength=int(blocks.max()) + 1)
    widest = counts.max(initial=0)
    if np.all((counts == 0) | (counts == widest)):
        return mask
    lacks = np.where(counts > 0, widest - counts, 0)
    free = np.flatnonzero(~mask & (lacks[blocks] > 0))
    free = free[np.argsort(blocks[free], kind="stable")]
    held = blocks[free]
    place = np.arange(len(free)) - np.searchsorted(held, held)  # among the free positions of its block
    mask = mask.copy()
    mask[free[place < lacks[held]]] = True
    return mask
