"""Draws rows where a batch has too many: there can be far more edges, or pairs of nodes, than nodes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

#: The most rows of a batch, other than nodes and graphs; of more rows (edges, pairs), this many are drawn at random.
SAMPLED_ROWS = 1 << 16


@dataclass(frozen=True)
class Sample:
    """Some rows of a batch.

    Attributes:
        pick: the numbers of the rows; None: all.
        weight: how many rows of the batch each of them represents.
    """

    pick: Tensor | None
    weight: float

    def of(self, rows: Tensor) -> Tensor:
        """The sampled rows of ``rows``."""
        return rows if self.pick is None else rows[self.pick.to(rows.device)]


def sample(count: int, symbol: str, name: str, seed: int) -> Sample:
    """Choose among ``count`` rows.

    Args:
        count: the number of rows.
        symbol: the kind of the rows; all nodes (``"N"``) and graphs (``"B"``) are taken.
        name: the name of the value, so that every problem draws its own rows.
        seed: seed of the draw.
    """
    if count <= SAMPLED_ROWS or symbol in ("N", "B"):
        return Sample(None, 1.0)
    draw = torch.Generator().manual_seed(zlib.crc32(f"{name} {seed}".encode()))
    pick = torch.randperm(count, generator=draw)[:SAMPLED_ROWS].sort().values
    return Sample(pick, count / SAMPLED_ROWS)
