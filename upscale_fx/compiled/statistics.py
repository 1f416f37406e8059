"""Statistics over channels, estimated from the kept channels; ``approximate_norms=True`` turns norms into these.

An exact norm over channels reads all channels of its operand, so it is a barrier. While channels are removed, the
functions here replace it: a channel that only statistics read is removed, and the statistic is taken over the channels
that are kept for other reasons. A mean or variance over ``n`` channels becomes that of the ``k`` kept channels; a sum
is multiplied by ``n / k``, an L2 norm by ``sqrt(n / k)``. In sums and L2 norms, channels that are provably zero count
neither in ``n`` nor in ``k``, because removing them changes nothing.

:mod:`upscale_fx.passes.approximate_norms` puts these functions into a graph. :mod:`upscale_fx.passes.fix_statistics`
takes them out again, so that no later pass approximates without ``approximate_norms=True``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

How = Literal["mean", "mean of squares", "sum", "sum of squares", "norm", "var", "std"]


def approximate_layer_norm(x: Tensor, axes: int, eps: float) -> Tensor:
    """Layer norm of ``x`` without weight and bias, over the last ``axes`` axes."""
    return F.layer_norm(x, x.shape[-axes:], None, None, eps)


def approximate_normalize(x: Tensor, eps: float, share: float) -> Tensor:
    """``x / max(|x| * sqrt(share), eps)`` along the last axis; ``share`` is ``n / k``, all by kept channels."""
    root = math.sqrt(share)
    normalized: Tensor = F.normalize(x, 2.0, -1, eps / root)
    return normalized if share == 1 else normalized / root


def approximate_statistic(x: Tensor, how: How, dims: Sequence[int], keepdim: bool, share: float) -> Tensor:
    """Reduce a tensor over channels, and possibly rows.

    Args:
        x: the operand.
        how: ``"mean"`` or ``"sum"``, of the values or of their squares; ``"norm"`` (L2), ``"var"`` or ``"std"``.
        dims: the axes to reduce.
        keepdim: whether they stay, with size 1.
        share: factor of the result, ``n / k`` for a sum; for ``"norm"`` and ``"std"`` the factor of its square.
    """
    dims = tuple(dims)
    if how == "norm":
        statistic: Tensor = torch.linalg.vector_norm(x, 2, dims, keepdim)
    elif how in ("var", "std"):
        statistic = (x.var if how == "var" else x.std)(dims, correction=0, keepdim=keepdim)
    else:
        x = x.square() if how.endswith("squares") else x
        statistic = (x.sum if how.startswith("sum") else x.mean)(dims, keepdim)
    factor = math.sqrt(share) if how in ("norm", "std") else share
    return statistic if factor == 1 else statistic * factor
