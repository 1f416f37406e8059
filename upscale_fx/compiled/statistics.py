"""Statistics over channels that may be estimated from some of them: what norms become with ``approximate_norms=True``.

A norm over channels reads all of its operand's channels, so exactly it is a barrier. The functions here stand in its
place while channels are removed: a channel that nobody but a statistic needs goes, and the statistic is taken over the
channels its operand keeps for other reasons. A mean or a variance over ``n`` channels becomes that of the ``k`` kept;
a sum is multiplied by ``n / k``, an L2 norm by ``sqrt(n / k)``. In the latter two a channel that is provably zero
counts neither in ``n`` nor in ``k``: dropping it changes nothing.

:mod:`upscale_fx.passes.approximate_norms` puts them into a graph, :mod:`upscale_fx.passes.fix_statistics` takes them
out again, so that no later pass approximates without being asked.
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
    """Layer norm without weight and bias over the last ``axes`` axes, of whatever channels ``x`` has."""
    return F.layer_norm(x, x.shape[-axes:], None, None, eps)


def approximate_normalize(x: Tensor, eps: float, share: float) -> Tensor:
    """``x / max(|x| * sqrt(share), eps)`` along the last axis; ``share`` is how many channels each one stands for."""
    root = math.sqrt(share)
    found: Tensor = F.normalize(x, 2.0, -1, eps / root)
    return found if share == 1 else found / root


def approximate_statistic(x: Tensor, how: How, dims: Sequence[int], keepdim: bool, share: float) -> Tensor:
    """A reduction over channels, and perhaps rows.

    Args:
        x: what is reduced.
        how: ``"mean"`` or ``"sum"``, of the values or of their squares; ``"norm"`` (L2), ``"var"`` or ``"std"``.
        dims: the axes reduced.
        keepdim: whether they stay, with size 1.
        share: what the result (of ``"norm"`` and ``"std"``: its square) is multiplied by, ``n / k`` for a sum.
    """
    dims = tuple(dims)
    if how == "norm":
        found: Tensor = torch.linalg.vector_norm(x, 2, dims, keepdim)
    elif how in ("var", "std"):
        found = (x.var if how == "var" else x.std)(dims, correction=0, keepdim=keepdim)
    else:
        x = x.square() if how.endswith("squares") else x
        found = (x.sum if how.startswith("sum") else x.mean)(dims, keepdim)
    factor = math.sqrt(share) if how in ("norm", "std") else share
    return found if factor == 1 else found * factor
