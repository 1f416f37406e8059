"""Operations that change what a row is, and graphs made inside a model."""

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
    """``knn_by_features(x [N, C], ..)``: a distance is a sum over channels."""
    source = op.argument(0, "x")
    given = op.axes_of(source)
    if given is None or len(given.sizes) != 2 or not _leads_with_rows(given):
        return None
    return Neighbours((), "nearest neighbours: structure", source)


def reshaped_rows(op: Operation, source: fx.Node) -> Relation | None:
    """A reshape in which the leading rows and some static axes after them become rows, or the other way round."""
    given, own = op.axes_of(source), op.axes
    if given is None or not (_leads_with_rows(given) and _leads_with_rows(own)):
        return None
    more, fewer = (own, given) if given.count > own.count else (given, own)
    groups = fewer.count // max(more.count, 1)
    if any(large != small * groups for large, small in zip(more.pairs[0], fewer.pairs[0], strict=True)):
        return None
    lead = _axes_of_groups(fewer, groups)
    if groups < 2 or lead is None:
        return None
    if more is own:
        return Regrouping(source, np.arange(given.count, dtype=np.int64).reshape(groups, own.count), (lead, 1))
    return Regrouping(source, np.tile(np.arange(given.count, dtype=np.int64), groups)[None], (1, lead))


def _leads_with_rows(axes: Axes) -> bool:
    """Whether the first axis, and no other, has rows."""
    return len(axes.sizes) > 0 and axes.sizes[0] is None and None not in axes.sizes[1:] and axes.count > 0


def _axes_of_groups(axes: Axes, groups: int) -> int | None:
    """How many leading axes have that many positions together; None if groups end within an axis."""
    sizes = np.cumprod(axes.shape)
    found = np.flatnonzero(sizes == groups)
    return int(found[-1]) + 1 if len(found) else None


def gathered_rows(op: Operation, flow: Flow) -> Relation | None:
    """``x[index]`` with an index of several axes: groups of rows, each with all its channels."""
    given, own = op.axes_of(flow.source), op.axes
    lead = len(own.sizes) - (0 if given is None else len(given.sizes) - 1)
    if given is None or lead < 2 or not _leads_with_rows(given) or own.sizes[lead:] != given.sizes[1:]:
        return None
    same = np.array_equal(flow.index, np.tile(np.arange(given.count), own.count // given.count))
    return Regrouping(flow.source, flow.index[None], (1, lead), gathers=True) if same else None
