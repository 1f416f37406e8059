"""Rows of logits, weighted by the effect of their errors on the softmax that reads them.

A softmax does not change when all logits of a target change by the same number, and hardly changes with the logits of
edges that have small shares. To second order: for logits ``z`` with shares ``a = softmax(z)`` over the edges of a
target, an error ``d`` of the logits changes the shares by a divergence of ``1/2 sum of a (d - sum of a d)^2``. So from
the rows of such a problem their mean over the edges of the same target, weighted by the shares, is subtracted, and
each row is multiplied by the root of its share.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from upscale_fx.analysis.aggregations import softmax_index
from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.linear_rows import is_linear_along_rows


@dataclass(frozen=True)
class Softmax:
    """The softmax that reads logits.

    Attributes:
        shares: its node: ``[E]`` or one per head ``[E, H]``.
        index: the node that names the target of every edge, ``[E]``.
    """

    shares: fx.Node
    index: fx.Node


def softmax_of(flow: Dataflow, logits: fx.Node) -> Softmax | None:
    """The softmax that reads logits, if nothing else does."""
    node = logits
    while True:
        users = [user for user in node.users if user in flow.axes or user.op == "output"]
        if len(users) != 1:
            return None
        if (index := softmax_index(flow, users[0])) is not None:
            return Softmax(users[0], index) if users[0].args[0] is node else None
        if not is_linear_along_rows(flow, users[0], node):
            return None
        node = users[0]


def softmax_weighted(rows: Tensor, shares: Tensor, index: Tensor) -> Tensor:
    """Rows ``[E, H, C]`` of logits, weighted by a softmax with ``shares [E, H]`` over the edges of targets ``index``.

    Args:
        rows: ``[E, H, C]``.
        shares: ``[E, H]`` or ``[E]``; of any other shape, rows are returned as they are.
        index: ``[E]``, the target of every edge.
    """
    shares = shares.reshape(len(shares), -1)
    if shares.shape != rows.shape[:2] or not len(index):
        return rows
    share = shares.to(rows)[:, :, None]
    mean = rows.new_zeros((int(index.max()) + 1, *rows.shape[1:])).index_add_(0, index, share * rows)
    return (rows - mean[index]) * share.sqrt()
