"""Random scores: the baseline for all criteria."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor


def random(weight: Tensor, name: str, seed: int = 0) -> Tensor:
    """Uniform scores ``[in]``, seeded by name and seed: repeatable, without the global random generator."""
    text = f"{name} {seed}" if seed else name
    generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
    return torch.rand(weight.shape[1], generator=generator)
