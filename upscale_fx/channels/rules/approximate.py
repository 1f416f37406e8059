"""Norms and statistics over channels that may be estimated from the kept channels."""

from __future__ import annotations

from upscale_fx.channels.relations import Relation
from upscale_fx.channels.relations.statistics import SCALINGS, Normalisation, Statistic, fibres_of
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.channels.rules.registry import register
from upscale_fx.compiled.statistics import approximate_layer_norm, approximate_normalize, approximate_statistic


@register(approximate_layer_norm)
def layer_norm(op: Operation) -> Relation | None:
    """``approximate_layer_norm(x, axes, eps)``: zero does not stay zero, because the mean is subtracted."""
    rank = len(op.axes.sizes)
    axes = tuple(range(rank - op.argument(1), rank))
    flow = op.aligned(op.argument(0))
    return Normalisation((flow,), "never", None, None, fibres_of(op.axes, axes), axes) if flow is not None else None


@register(approximate_normalize)
def normalize(op: Operation) -> Relation | None:
    """``approximate_normalize(x, eps, share)``: zero stays zero."""
    axes = (len(op.axes.sizes) - 1,)
    flow = op.aligned(op.argument(0))
    if flow is None:
        return None
    return Normalisation((flow,), "all", None, None, fibres_of(op.axes, axes), axes, "sum")


@register(approximate_statistic)
def statistic(op: Operation) -> Relation | None:
    """``approximate_statistic(x, how, dims, keepdim, share)``."""
    source, how, dims, keep = op.call.args[:4]
    operand = op.axes_of(source)
    if operand is None:
        return None
    return Statistic(source, fibres_of(operand, dims), tuple(dims), bool(keep), SCALINGS[how])  # type: ignore[arg-type, index]
