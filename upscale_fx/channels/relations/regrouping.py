"""Relations of operations that change what a row is: patches become nodes, nodes are gathered into neighbourhoods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from upscale_fx.channels.positions import Mask, Masks
from upscale_fx.channels.relations import Barrier, OneOfSeveral


@dataclass(frozen=True)
class Regrouping(OneOfSeveral):
    """Static axes become rows (``[B, P, C]`` to ``[B * P, C]``), rows a static axis, or rows are gathered in groups.

    Result position ``p`` reads one of the source positions ``index[:, p]``; which one depends on the row. If static
    axes become rows, M is above 1. Otherwise M is 1, and several result positions read the same source position.

    Attributes:
        source: the value whose rows are regrouped.
        index: source positions, ``[M, positions of the result]``.
        lead: number of axes before the channels, in the source and in the result.
        gathers: whether an index selects the rows; otherwise the operation is a reshape.
    """

    lead: tuple[int, int]
    gathers: bool = False


@dataclass(frozen=True)
class Neighbours(Barrier):
    """Nearest neighbours by features ``[N, C]``, as integers.

    Unlike other barriers it does not read zero channels, which add nothing to distances, and ``source`` may have any
    order of channels.
    """

    source: fx.Node | None = None

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        return () if self.source is None else (self.source,)

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        for source in self.reads:
            reads = nonzero[source].copy()
            reads[0] |= not reads.any()  # all features are zero, but the call needs a column to take its rows from
            yield source, reads
