"""Relations of operations that change what a row is: patches become nodes, nodes are gathered in neighbourhoods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from upscale_fx.channels.positions import Mask, Masks
from upscale_fx.channels.relations import Barrier, OneOfSeveral


@dataclass(frozen=True)
class Regrouping(OneOfSeveral):
    """Static axes become rows (``[B, P, C]`` to ``[B * P, C]``), rows a static axis, or rows are gathered in groups.

    Result position ``p`` holds one of the positions ``index[:, p]`` of the source; which one depends on the row. There
    are several where static axes become rows, else one, which then stands in several result positions.

    Attributes:
        source: the value whose rows are regrouped.
        index: source positions, ``[M, positions of the result]``.
        lead: how many axes come before the channels, in the source and in the result.
        gathers: whether rows are chosen by an index; else the operation is a reshape.
    """

    lead: tuple[int, int]
    gathers: bool = False


@dataclass(frozen=True)
class Neighbours(Barrier):
    """Nearest neighbours by features ``[N, C]``: integers, to which channels that are zero add nothing.

    A barrier for its result alone: ``source`` may have any order, and what is zero for sure is not kept for it.
    """

    source: fx.Node | None = None

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        return () if self.source is None else (self.source,)

    def need(self, needed: Mask, nonzero: Masks) -> Iterator[tuple[fx.Node, Mask]]:
        for source in self.reads:
            wanted = nonzero[source].copy()
            wanted[0] |= not wanted.any()  # all alike; the rows still have to come from somewhere
            yield source, wanted
