"""Embedding tables whose columns are channels: those that nothing reads but sums of products of channels.

LightGCN and matrix factorisation score a pair of nodes by the dot product of two rows, DistMult (Yang et al. 2015) and
ComplEx (Trouillon et al. 2016) a triple by the sum of a product of three. A column of zeros in one factor makes the
channel's product zero, so the columns of all factors can go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.stored import Cut, NotStored, weight_cuts
from upscale_fx.channels.relations import Movement, Pointwise, Reduction
from upscale_fx.channels.relations.products import Lookup
from upscale_fx.masking.consumers.readings import Operand


def table_sums(flow: Dataflow) -> Iterator[tuple[fx.Node, tuple[Operand, ...]]]:
    """Yield the sums over channels of products of two values, and the factors, whose channels are those of one sum.

    Several sums ``[B, K]`` over channels may read one factor ``[B, 1, C]``, as those of a user with sampled items do.
    """
    for node in flow.nodes:
        relation = flow.relations.get(node)
        if not isinstance(relation, Reduction) or relation.how not in ("sum", "mean") or not relation.frees:
            continue
        product = flow.relations[relation.source]
        if not isinstance(product, Pointwise) or product.zero != "any" or len(product.flows) != 2:
            continue
        sums, sizes = np.unique(relation.index, return_counts=True)
        if any(factor.source.op == "get_attr" for factor in product.flows) or len(np.unique(sizes)) != 1:
            continue
        columns = np.argsort(relation.index, kind="stable").reshape(len(sums), -1)
        yield node, tuple(Operand(factor.source, factor.index[columns]) for factor in product.flows)


def table_cuts(flow: Dataflow, factors: tuple[Operand, ...], sums: Collection[fx.Node]) -> list[Cut]:
    """Return the columns of the tables that make one factor of a product; empty if no factor is made of tables alone.

    Of several such factors it is that whose table the graph reads first, so that all sums over it remove the same.

    Args:
        flow: the analysed graph.
        factors: what is multiplied, with the positions of every channel.
        sums: the calls that sum products over channels. If something else reads a table, its columns are not these
            calls' to remove.
    """
    place = {str(node.target): number for number, node in enumerate(flow.nodes) if node.op == "get_attr"}
    found: list[list[Cut]] = []
    for factor in factors:
        count = factor.columns.shape[1]
        labels = np.full(flow.axes[factor.value].count, -1, dtype=np.int64)
        labels[factor.columns] = np.arange(count)
        if np.any(labels[factor.columns] != np.arange(count)):
            continue
        try:
            cuts = weight_cuts(flow, factor.value, labels, count)
        except NotStored:
            continue
        tables = {node for node in flow.nodes if node.op == "get_attr" and str(node.target) in {c.target for c in cuts}}
        if all(_only_summed(flow, table, sums) for table in tables) and all(_columns(cut) for cut in cuts):
            found.append(cuts)
    return min(found, key=lambda cuts: min((place[cut.target] for cut in cuts), default=0), default=[])


def _columns(cut: Cut) -> bool:
    """Whether every channel that has entries in it is one column of a matrix."""
    return len(cut.shape) == 2 and bool((cut.lines()[cut.entries[:, 0] >= 0, 1] >= 0).all())


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
