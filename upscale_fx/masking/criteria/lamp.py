"""LAMP (Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", 2021), on columns instead of entries."""

from __future__ import annotations

import torch
from torch import Tensor


def lamp(weight: Tensor, name: str) -> Tensor:
    """``u_c / sum of u_d over all d with u_d >= u_c``, ``u`` the squared column norms of ``weight [out, in]``.

    Its scores can be compared between layers, so it suits ``scope="global"``. Returns ``[in]``.
    """
    energy = weight.double().square().sum(dim=0)
    order = torch.argsort(energy, stable=True)
    ranked = energy[order]
    remaining = ranked.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(energy)
    scores[order] = ranked / remaining.clamp_min(torch.finfo(energy.dtype).tiny)
    return scores
