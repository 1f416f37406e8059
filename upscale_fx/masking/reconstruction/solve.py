"""Ridge least squares on the channels that are kept.

Minimises ``|X W - Y|^2 + sum over channels c of r_c |W_c - W0_c|^2`` over weights whose removed rows are zero, with
``Y = X W0 + E``: the normal equations on the kept rows ``K`` are ``(G + R)_KK W_K = (X'E + (G + R) W0)_K``. ``r_c`` is
a share of the channel's own energy ``G_cc``, so that the scale of a channel does not matter, and at least a millionth
of that of the mean channel, so that a singular Gram matrix (dead channels, fewer rows than channels) is solved too. The
error ``|X W - Y|^2`` is never larger than that of ``W0`` with zeros in its removed rows, for which the ridge is zero on
the kept rows.

Entries that are zero in ``W0`` stay zero: a sparse model stays sparse, and channels removed earlier do not return.
"""

from __future__ import annotations

import torch
from torch import Tensor

from upscale_fx.channels.positions import Mask
from upscale_fx.errors import UpscaleError
from upscale_fx.masking.reconstruction.moments import Moments

#: Ridge, as a share of the Gram matrix's diagonal.
RIDGE = 1e-4
#: Least ridge of a channel, as a share of the mean channel's.
_LEAST = 1e-6
#: The share of the ridge for biases.
_BIASES = 1e-6
#: The most multiply-adds for outputs whose weights have zeros in different places.
MOST = 1e11


class NotFittedError(UpscaleError, ValueError):
    """The reason why weights cannot be fitted to the calibration data; they stay as they are, and a note says so."""


def regularised(gram: Tensor, ridge: float = RIDGE, biases: Mask | None = None) -> Tensor:
    """``G + R`` for every block of ``gram [B, V, V]``; the mask ``biases [B, V]`` marks the biases.

    Biases are nearly free, like the intercept of any ridge regression: they take over the effect of constant channels.
    Their very small ridge makes the solution unique for two biases of one target.
    """
    energy = gram.diagonal(dim1=1, dim2=2)
    energy = energy + _LEAST * energy.mean(dim=1, keepdim=True)
    share = torch.ones(gram.shape[:2], dtype=gram.dtype)
    if biases is not None:
        share[torch.from_numpy(biases)] = _BIASES
    left: Tensor = gram + torch.diag_embed(ridge * energy * share + torch.finfo(gram.dtype).tiny ** 0.5)
    return left


def normal_equations(
    moments: Moments, weight: Tensor, ridge: float = RIDGE, biases: Mask | None = None
) -> tuple[Tensor, Tensor]:
    """Both sides of the normal equations: ``[B, V, V]`` and ``[B, V, O]``, of weights ``[B, V, O]``."""
    left = regularised(moments.gram, ridge, biases)
    return left, moments.cross + left @ weight


def fit(left: Tensor, right: Tensor, free: Tensor) -> Tensor:
    """Weights ``[B, V, O]``, zero except where the mask ``free [B, V, O]`` is true.

    Raises:
        NotFittedError: the zeros of outputs have so many different patterns that this would take too long, or the
            moments are singular to working precision, even with the ridge.
    """
    weight = torch.zeros_like(right)
    for block, masks in enumerate(free):
        patterns, which = masks[:, :1], torch.zeros(masks.shape[1], dtype=torch.int64)
        if not bool((masks == patterns).all()):
            patterns, which = masks.unique(dim=1, return_inverse=True)
        if float(patterns.sum(dim=0).double().pow(3).sum()) / 3 > MOST and patterns.shape[1] > 1:
            raise NotFittedError("single entries of its weights are zero, in different places for every output")
        for number, pattern in enumerate(patterns.T):
            keep, outputs = torch.nonzero(pattern)[:, 0], torch.nonzero(which == number)[:, 0]
            if len(keep):
                part, failed = torch.linalg.cholesky_ex(left[block][keep][:, keep])
                if int(failed):
                    raise NotFittedError("its inputs differ too much in size for float64")
                solution = torch.cholesky_solve(right[block][keep][:, outputs], part)
                weight[block, keep[:, None], outputs[None]] = solution
    return weight
