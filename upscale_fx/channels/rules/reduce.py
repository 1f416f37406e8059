"""Rules for reductions over channel axes (contractions) and over row axes (pointwise)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from upscale_fx.channels.positions import Axes
from upscale_fx.channels.relations import Pointwise, Reduction, Relation
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.channels.rules.registry import register

_HOW = {"sum": "sum", "mean": "mean", "max": "max", "min": "max", "amax": "max", "amin": "max"}


@register(
    "sum", torch.sum, "mean", torch.mean, "max", torch.max, "min", torch.min, "amax", torch.amax, "amin", torch.amin
)
def reduction(op: Operation) -> Relation | None:
    """``x.sum(dim)``, ``mean``, ``max``, ...; of the tuple that ``max(dim)`` returns, the getitem of its values."""
    source = op.argument(0, "input")
    operand = op.axes_of(source)
    if operand is None or (op.item not in (None, 0)):
        return None
    rank = len(operand.sizes)
    dims = op.argument(1, "dim")
    if dims is None:
        if op.name in ("max", "min") and len(op.tensors) > 1:
            return None
        dims = tuple(range(rank))
    if isinstance(dims, fx.Node):  # torch.max(a, b)
        return None
    axes = tuple(d % rank for d in (dims if isinstance(dims, tuple | list) else (dims,)))
    keep = bool(op.argument(2, "keepdim", default=False))
    channel = [a for a in axes if operand.shape[a] > 1]
    rows = [a for a in axes if operand.sizes[a] is None]
    static = [a for a in axes if operand.sizes[a] is not None]
    how = _HOW[op.name]
    if not static or (rows and not channel):
        return _over_rows(op)
    if rows and how != "sum":
        return None  # a mean over rows and channels divides by the number of both
    return _over_channels(source, operand, axes, keep, how)


@register("norm", torch.norm, torch.linalg.vector_norm, torch.linalg.norm)
def norm(op: Operation) -> Relation | None:
    """``x.norm(p, dim)`` with a positive p: zero channels add nothing."""
    power = op.argument(1, "p", "ord", default=2)
    source, dims = op.argument(0, "input", "A", "x"), op.argument(2, "dim")
    operand = op.axes_of(source)
    if operand is None or not (power in (None, "fro") or (isinstance(power, int | float) and power > 0)):
        return None
    if None in operand.sizes and dims is None:
        return None
    rank = len(operand.sizes)
    dims = tuple(range(rank)) if dims is None else dims if isinstance(dims, tuple | list) else (dims,)
    axes = tuple(d % rank for d in dims)
    if any(operand.sizes[a] is None for a in axes):
        return None
    keep = bool(op.argument(3, "keepdim", default=False))
    return _over_channels(source, operand, axes, keep, "norm")


def _over_channels(source: fx.Node, operand: Axes, axes: tuple[int, ...], keep: bool, how: Any) -> Reduction:
    kept = [1 if a in axes else s for a, s in enumerate(operand.shape)]
    result = np.arange(int(np.prod(kept))).reshape(kept)
    index = np.broadcast_to(result, operand.shape).reshape(-1)
    last = max(a for a, size in enumerate(operand.sizes) if size is not None) in axes
    return Reduction(source, np.ascontiguousarray(index), how, axes, keep, last and how != "max")


def _over_rows(op: Operation) -> Relation | None:
    source = op.argument(0, "input")
    operand = op.axes_of(source)
    assert operand is not None
    if operand.count != op.axes.count:
        return None
    offset = 0
    axes: list[int | None] = []
    removed = len(operand.sizes) != len(op.axes.sizes)
    dims = op.argument(1, "dim")
    gone = range(len(operand.sizes)) if dims is None else [d % len(operand.sizes) for d in np.atleast_1d(dims).tolist()]
    for axis in range(len(operand.sizes)):
        if removed and axis in gone:
            axes.append(None)
        else:
            axes.append(offset)
            offset += 1
    flow = op.aligned(source, tuple(axes))
    return Pointwise((flow,), "all") if flow is not None else None
