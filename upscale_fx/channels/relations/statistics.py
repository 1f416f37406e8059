"""Relations of statistics over channels that are estimated from those that are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import fx

from upscale_fx.channels.positions import Axes, Mask, Masks, Positions
from upscale_fx.channels.relations import Pointwise, Relation, hit
from upscale_fx.compiled.statistics import How

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
