"""Draws rows where a batch has too many: edges and pairs of nodes can be far more than nodes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

#: Most rows that a batch contributes where there are more of them than nodes (edges, pairs); these are drawn at random.
SAMPLED_ROWS = 1 << 16


@dataclass(frozen=True)
class Sample:
    """Some rows of a batch.

    Attributes:
        pick: which rows; None: all.
        weight: for how many rows each of them stands.
    """

    pick: Tensor | None
    weight: float

    def of(self, rows: Tensor) -> Tensor:
        """These rows of all rows."""
        return rows if self.pick is None else rows[self.pick.to(rows.device)]


def sample(count: int, symbol: str, name: str, seed: int) -> Sample:
    """Which of ``count`` rows to take.

    Args:
        count: how many rows there are.
        symbol: what they are rows of; of nodes (``"N"``) and graphs (``"B"``) all are taken.
        name: what is read, so that every problem draws rows of its own.
        seed: of the draw.
    """
    if count <= SAMPLED_ROWS or symbol in ("N", "B"):
        return Sample(None, 1.0)
    draw = torch.Generator().manual_seed(zlib.crc32(f"{name} {seed}".encode()))
    pick = torch.randperm(count, generator=draw)[:SAMPLED_ROWS].sort().values
    return Sample(pick, count / SAMPLED_ROWS)
