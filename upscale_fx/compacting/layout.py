"""Which channels stand where: ties between positions, one order per tied component, one layout per value."""

from __future__ import annotations

import numpy as np

from upscale_fx.channels.positions import Axes, Mask, Positions
from upscale_fx.channels.rectangles import Level


def layout_of(axes: Axes, mask: Mask, rank: Positions, level: Level, blocks: Positions | None) -> Positions | None:
    """The layout of a value that keeps ``mask``: sorted by block, then by rank; occurrences of one channel apart.

    None where the kept positions are not rectangular at this level.
    """
    wide = axes.wide
    if level is Level.IDENTITY or not wide:
        return axes.everything()
    if level is Level.GRID and len(wide) > 1:
        return _grid_layout(axes, mask, rank)
    positions = np.flatnonzero(mask)
    lead = blocks[positions] if blocks is not None else np.zeros(len(positions), dtype=np.int64)
    if len(wide) == 1:
        order = np.lexsort((positions, rank[positions], _occurrence(rank[positions]), lead))
        shape = [1] * len(axes.shape)
        shape[wide[0]] = len(positions)
        return positions[order].reshape(shape)
    last = axes.shape[wide[-1]]
    cell = positions // last
    cell_rank = rank[positions] if _holds_one_channel_each(rank.reshape(-1, last)) else np.zeros_like(cell)
    order = np.lexsort((positions, rank[positions], lead, cell, cell_rank))
    shape = [len(np.unique(_coordinate(axes, positions, a))) if a in wide else 1 for a in range(len(axes.shape))]
    shape[wide[-1]] = len(positions) // int(np.prod(shape[: wide[-1]]))
    if int(np.prod(shape)) != len(positions):
        return None
    return positions[order].reshape(shape)


def _holds_one_channel_each(cells: Positions) -> bool:
    """Whether every cell is one channel (a stack): then cells follow its order; others (heads) keep their own."""
    return bool(np.all(cells == cells[:, :1]))


def _occurrence(rank: Positions) -> Positions:
    """How often the same channel was met before: the halves of a chunked value stay halves."""
    order = np.argsort(rank, kind="stable")
    ordered = rank[order]
    fresh = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(rank) else order
    found = np.empty(len(rank), dtype=np.int64)
    found[order] = np.arange(len(rank)) - np.repeat(fresh, np.diff([*fresh, len(rank)]))
    return found


def _coordinate(axes: Axes, positions: Positions, axis: int) -> Positions:
    return np.unravel_index(positions, axes.shape)[axis].astype(np.int64)


def _grid_layout(axes: Axes, mask: Mask, rank: Positions) -> Positions:
    grid, ranks = mask.reshape(axes.shape), rank.reshape(axes.shape)
    picks = []
    for axis in range(len(axes.shape)):
        others = tuple(a for a in range(len(axes.shape)) if a != axis)
        kept = np.flatnonzero(grid.any(axis=others))
        mean = ranks.mean(axis=others)[kept]
        picks.append(kept[np.lexsort((kept, mean))])
    return axes.everything()[np.ix_(*picks)]
