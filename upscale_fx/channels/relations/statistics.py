"""Relations of statistics over channels that are estimated from the kept channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import fx

from upscale_fx.channels.positions import Axes, Mask, Masks, Positions
from upscale_fx.channels.relations import Pointwise, Relation, hit
from upscale_fx.compiled.statistics import How

#: How removed channels change the share of a statistic. ``sum``: by ``n / k``, over channels that may be non-zero.
#: ``mean``: removed zero channels are accounted for. ``none``: not at all.
Scaling = Literal["sum", "mean", "none"]

SCALINGS: dict[How, Scaling] = {
    "mean": "mean", "mean of squares": "mean", "sum": "sum", "sum of squares": "sum", "norm": "sum", "var": "none",
    "std": "none",
}  # fmt: skip


@dataclass(frozen=True)
class Statistic(Relation):
    """A reduction that needs no channel itself: it reads the channels that its source keeps for other consumers.

    Attributes:
        source: the operand.
        fibres: for every source position, its result position.
        axes: the reduced axes.
        keep: whether they stay, with size 1.
        scaling: how the last argument of the call, its share, depends on the kept channels.
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
        """Return the positions with any non-zero operand: a statistic of zeros is zero."""
        return hit(self.fibres[nonzero[self.source]], count)

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        """Yield nothing."""
        return iter(())


@dataclass(frozen=True)
class Normalisation(Pointwise):
    """A pointwise operation that also reads statistics of all kept channels; fields are those of Statistic."""

    fibres: Positions = field(default_factory=lambda: np.empty(0, dtype=np.int64), compare=False)
    axes: tuple[int, ...] = ()
    scaling: Scaling = "none"

    @property
    def source(self) -> fx.Node:
        """The operand."""
        return self.flows[0].source


def fibres_of(operand: Axes, axes: Sequence[int]) -> Positions:
    """Return for every position of a value its result position in a reduction over ``axes``."""
    kept = [1 if axis in axes else size for axis, size in enumerate(operand.shape)]
    result = np.arange(int(np.prod(kept)), dtype=np.int64).reshape(kept)
    return np.ascontiguousarray(np.broadcast_to(result, operand.shape).reshape(-1))


def new_share(relation: Statistic | Normalisation, alive: Mask, layout: Positions) -> float:
    """Return the factor of the share if the source keeps only ``layout``; ``alive`` marks what may be non-zero."""
    fibres, kept = relation.fibres, layout.reshape(-1)
    if relation.scaling == "none":
        return 1.0
    here = np.unique(fibres[kept])
    size, left = (np.bincount(fibres[p], minlength=fibres.max() + 1)[here] for p in (np.arange(len(fibres)), kept))
    before, after = (np.bincount(fibres[p], minlength=fibres.max() + 1)[here]
                     for p in (np.flatnonzero(alive), kept[alive[kept]]))  # fmt: skip
    if np.any(after == 0) or np.any(before * after[0] != before[0] * after):  # heads would need different factors
        before, after = size, left
    ratio = float(before[0] / after[0])
    return ratio * float(left[0] / size[0]) if relation.scaling == "mean" else ratio
