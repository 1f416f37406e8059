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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from upscale_fx.channels.positions import Axes, Mask, Masks, Positions
from upscale_fx.channels.relations import Pointwise, Relation, hit

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


#: How the share of a statistic changes with the channels that are left: by ``n / k``; by what zeros dropped weigh; not.
Scaling = Literal["sum", "mean", "none"]
SCALINGS: dict[How, Scaling] = {
    "mean": "mean", "mean of squares": "mean", "sum": "sum", "sum of squares": "sum", "norm": "sum", "var": "none",
    "std": "none",
}  # fmt: skip


@dataclass(frozen=True)
class Statistic(Relation):
    """A reduction that asks for no channel: it reads those its source keeps for others.

    Attributes:
        source: what is reduced.
        fibres: the result position that each source position belongs to.
        axes: the axes reduced.
        keep: whether they stay, with size 1.
        scaling: how the last argument of the call, its share, follows the channels that are kept.
    """

    source: fx.Node
    fibres: Positions
    axes: tuple[int, ...]
    keep: bool
    scaling: Scaling

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        """The source."""
        return (self.source,)

    def nonzero(self, count: int, nonzero: Masks) -> Mask:
        """A statistic of zeros is zero."""
        return hit(self.fibres[nonzero[self.source]], count)

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        """Nothing."""
        return iter(())


@dataclass(frozen=True)
class Normalisation(Pointwise):
    """Position to position, by statistics of all channels that the source keeps; fields as those of Statistic."""

    fibres: Positions = field(default_factory=lambda: np.empty(0, dtype=np.int64), compare=False)
    axes: tuple[int, ...] = ()
    scaling: Scaling = "none"

    @property
    def source(self) -> fx.Node:
        """What is normalised."""
        return self.flows[0].source


def fibres_of(given: Axes, axes: Sequence[int]) -> Positions:
    """For every position of a value the result position it belongs to when ``axes`` are reduced."""
    kept = [1 if axis in axes else size for axis, size in enumerate(given.shape)]
    result = np.arange(int(np.prod(kept)), dtype=np.int64).reshape(kept)
    return np.ascontiguousarray(np.broadcast_to(result, given.shape).reshape(-1))


def new_share(relation: Statistic | Normalisation, alive: Mask, layout: Positions) -> float:
    """What the share is multiplied by when the source keeps ``layout`` only; ``alive``: what may be non-zero."""
    fibres, kept = relation.fibres, layout.reshape(-1)
    if relation.scaling == "none":
        return 1.0
    here = np.unique(fibres[kept])
    size, left = (np.bincount(fibres[p], minlength=fibres.max() + 1)[here] for p in (np.arange(len(fibres)), kept))
    before, after = (np.bincount(fibres[p], minlength=fibres.max() + 1)[here]
                     for p in (np.flatnonzero(alive), kept[alive[kept]]))  # fmt: skip
    if np.any(after == 0) or np.any(before * after[0] != before[0] * after):  # no one number fits all heads
        before, after = size, left
    ratio = float(before[0] / after[0])
    return ratio * float(left[0] / size[0]) if relation.scaling == "mean" else ratio
