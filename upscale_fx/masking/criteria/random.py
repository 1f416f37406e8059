"""Random scores: the baseline every criterion has to beat."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor


def random(weight: Tensor, name: str, seed: int = 0) -> Tensor:
    """Uniform scores ``[in]``, drawn from name and seed: repeatable, and the global RNG is left alone."""
    text = f"{name} {seed}" if seed else name
    generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
    return torch.rand(weight.shape[1], generator=generator)
