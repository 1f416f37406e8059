"""Magnitude criteria (Li et al., "Pruning Filters for Efficient ConvNets", 2017) on input columns."""

from __future__ import annotations

from torch import Tensor


def l1(weight: Tensor, name: str) -> Tensor:
    """Sum of absolute weights of each column of ``weight [out, in]``; returns ``[in]``."""
    return weight.abs().sum(dim=0)


def l2(weight: Tensor, name: str) -> Tensor:
    """Euclidean norm of each column of ``weight [out, in]``; returns ``[in]``."""
    return weight.square().sum(dim=0).sqrt()
