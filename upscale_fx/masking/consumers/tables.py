"""Embedding tables whose columns are channels: those that nothing reads but sums of products of channels.

LightGCN and matrix factorisation score a pair of nodes by the dot product of two rows, DistMult (Yang et al. 2015) and
ComplEx (Trouillon et al. 2016) a triple by the sum of a product of three. A column of zeros in one factor makes the
channel's product zero, so the columns of all factors can go.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.stored import Cut, NotStored, weight_cuts
from upscale_fx.channels.positions import Flow
from upscale_fx.channels.relations import Movement, Pointwise
from upscale_fx.channels.relations.products import Lookup


def table_cuts(flow: Dataflow, values: tuple[Flow, ...], sums: Collection[fx.Node]) -> list[Cut]:
    """Return the columns of the tables that make one factor of a product; empty if no factor is made of tables alone.

    Args:
        flow: the analysed graph.
        values: the factors; channel ``c`` is position ``index[c]`` of each.
        sums: the calls that sum products over channels. If something else reads a table, its columns are not these
            calls' to remove.
    """
    for value in values:
        count = len(value.index)
        labels = np.full(flow.axes[value.source].count, -1, dtype=np.int64)
        labels[value.index] = np.arange(count)
        try:
            cuts = weight_cuts(flow, value.source, labels, count)
        except NotStored:
            continue
        tables = {node for node in flow.nodes if node.op == "get_attr" and str(node.target) in {c.target for c in cuts}}
        if all(_only_summed(flow, table, sums) for table in tables) and all(_columns(cut) for cut in cuts):
            return cuts
    return []


def _columns(cut: Cut) -> bool:
    """Whether every channel is one column of a matrix."""
    return len(cut.shape) == 2 and bool((cut.lines()[:, 1] >= 0).all())


def _only_summed(flow: Dataflow, table: fx.Node, sums: Collection[fx.Node]) -> bool:
    """Whether whatever is made of a table ends in these sums."""
    waiting, seen = [table], {table}
    while waiting:
        for user in waiting.pop().users:
            if user in sums or user in seen or user not in flow.axes:
                if user.op == "output":
                    return False
                continue
            if not isinstance(flow.relations.get(user), Movement | Pointwise | Lookup):
                return False
            seen.add(user)
            waiting.append(user)
    return True
