"""Random scores: the baseline every criterion has to beat."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor


def random(weight: Tensor, name: str) -> Tensor:
    """Uniform scores ``[in]``, drawn from the consumer's name: repeatable, and the global RNG is left alone."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.rand(weight.shape[1], generator=generator)
