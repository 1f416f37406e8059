"""Rules for operations that change what a row is, and for graphs that a model builds."""

from __future__ import annotations

import numpy as np
from torch import fx

from upscale_fx.channels.positions import Axes, Flow
from upscale_fx.channels.relations import Relation
from upscale_fx.channels.relations.regrouping import Neighbours, Regrouping
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.channels.rules.registry import register
from upscale_fx.compiled import functions


@register(functions.knn_by_features)
def nearest_neighbours(op: Operation) -> Relation | None:
    """``knn_by_features(x [N, C], ..)``: distances are sums over channels."""
    source = op.argument(0, "x")
    operand = op.axes_of(source)
    if operand is None or len(operand.sizes) != 2 or not _leads_with_rows(operand):
        return None
    return Neighbours((), "nearest neighbours: structure", source)


def reshaped_rows(op: Operation, source: fx.Node) -> Relation | None:
    """Rule for a reshape that merges the leading rows and the next static axes into rows, or splits rows this way."""
    operand, result = op.axes_of(source), op.axes
    if operand is None or not (_leads_with_rows(operand) and _leads_with_rows(result)):
        return None
    more, fewer = (result, operand) if operand.count > result.count else (operand, result)
    groups = fewer.count // max(more.count, 1)
    if any(large != small * groups for large, small in zip(more.pairs[0], fewer.pairs[0], strict=True)):
        return None
    lead = _axes_of_groups(fewer, groups)
    if groups < 2 or lead is None:
        return None
    if more is result:
        return Regrouping(source, np.arange(operand.count, dtype=np.int64).reshape(groups, result.count), (lead, 1))
    return Regrouping(source, np.tile(np.arange(operand.count, dtype=np.int64), groups)[None], (1, lead))


def _leads_with_rows(axes: Axes) -> bool:
    """Whether the first axis, and no other, has rows."""
    return len(axes.sizes) > 0 and axes.sizes[0] is None and None not in axes.sizes[1:] and axes.count > 0


def _axes_of_groups(axes: Axes, groups: int) -> int | None:
    """Return how many leading axes have ``groups`` positions together; None if no number of axes has."""
    sizes = np.cumprod(axes.shape)
    last_axes = np.flatnonzero(sizes == groups)
    return int(last_axes[-1]) + 1 if len(last_axes) else None


def gathered_rows(op: Operation, flow: Flow) -> Relation | None:
    """Rule for ``x[index]`` with an index of several axes: groups of rows, each with all its channels."""
    operand, result = op.axes_of(flow.source), op.axes
    lead = len(result.sizes) - (0 if operand is None else len(operand.sizes) - 1)
    if operand is None or lead < 2 or not _leads_with_rows(operand) or result.sizes[lead:] != operand.sizes[1:]:
        return None
    same = np.array_equal(flow.index, np.tile(np.arange(operand.count), result.count // operand.count))
    return Regrouping(flow.source, flow.index[None], (1, lead), gathers=True) if same else None
