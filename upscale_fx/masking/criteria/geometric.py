"""FPGM (He et al., "Filter Pruning via Geometric Median", 2019), on input columns."""

from __future__ import annotations

import torch
from torch import Tensor


def fpgm(weight: Tensor, name: str) -> Tensor:
    """Sum of distances of each column of ``weight [out, in]`` to all others; the most replaceable one scores lowest.

    Returns ``[in]``.
    """
    columns = weight.t().double()
    return torch.cdist(columns, columns, compute_mode="donot_use_mm_for_euclid_dist").sum(dim=1)
