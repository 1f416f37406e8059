"""Some of the edges of a node instead of all: fan-outs, as in neighbour sampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from upscale_fx.errors import InputError
from upscale_fx.passes.cut_stages import Stage, Stages
from upscale_fx.running.serving.graph.edge_table import Around


class Sampler:
    """Draws at most so many edges per node and hop, without repetition, each as likely.

    Args:
        fanouts: edges per node at hop 0, 1, ...; hop 0 are the nodes that are asked for.
        stages: of the model; there must be one number per hop.
        seed: of the draws.

    Raises:
        InputError: not one positive integer per hop.
    """

    def __init__(self, fanouts: Sequence[int], stages: Stages, seed: int) -> None:
        hops = max((stage.number for stage in stages.stages), default=0)
        numbers = list(fanouts)
        if len(numbers) != hops or any(type(n) is not int or n < 1 for n in numbers):
            raise InputError(
                f"fanouts takes one positive integer per hop, and this model reads {hops} hops, got {fanouts!r}"
            )
        self._by_number = {hops - hop: fanout for hop, fanout in enumerate(numbers)}
        self._random = np.random.default_rng(seed)

    def fanout(self, stage: Stage) -> int | None:
        """Edges per node of a stage; None where it reads no rows of neighbours, and so takes all."""
        reads = any(operand.kind == "rows" and operand.space.where == "far" for operand in stage.operands)
        return self._by_number.get(stage.number) if reads else None

    def draw(self, around: Around, fanout: int) -> Around:
        """Return some of the edges of each node, in the order in which they were."""
        degrees = np.diff(around.rowptr)
        if not (degrees > fanout).any():
            return around
        row = np.repeat(np.arange(degrees.size), degrees)
        order = np.lexsort((self._random.random(row.size), row))
        rank = np.empty(row.size, np.int64)
        rank[order] = np.arange(row.size) - around.rowptr[row[order]]
        kept = rank < fanout
        rowptr = np.concatenate([[0], np.cumsum(np.minimum(degrees, fanout))])
        return Around(rowptr, around.others[kept], around.edges[kept])
