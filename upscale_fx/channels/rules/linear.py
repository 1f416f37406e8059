"""Rules for contractions with a weight [O, I] or [I, O]: linear layers."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from upscale_fx.channels.relations import Contraction, Relation
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.channels.rules.registry import register


@register(F.linear, torch._C._nn.linear)
def linear(op: Operation) -> Relation | None:
    """``linear(x [.., I], weight [O, I], bias [O])``."""
    return contraction(op, op.argument(0, "input"), op.argument(1, "weight"), op.argument(2, "bias"), False)


@register(torch.addmm, "addmm")
def addmm(op: Operation) -> Relation | None:
    """``bias [O] + x [N, I] @ weight [I, O]`` with unit factors."""
    if set(op.call.kwargs) & {"alpha", "beta"} or len(op.call.args) > 3:
        return None
    return contraction(op, op.argument(1, "mat1"), op.argument(2, "mat2"), op.argument(0, "input"), True)


def contraction(op: Operation, x: object, weight: object, bias: object, transposed: bool) -> Relation | None:
    """Return the relation of ``x`` times a 2-D weight; None for any other product."""
    x_axes, w_axes = op.axes_of(x), op.axes_of(weight)
    if x_axes is None or w_axes is None or not x_axes.sizes or x_axes.sizes[-1] is None or x is weight:
        return None
    if len(w_axes.sizes) != 2 or None in w_axes.sizes:
        return None
    if x_axes.count == 0 or w_axes.count == 0:
        return None
    b_axes = op.axes_of(bias)
    outputs = w_axes.shape[1 if transposed else 0]
    if b_axes is not None and b_axes.sizes != (outputs,):
        return None
    batch = x_axes.count // x_axes.shape[-1]
    if batch > 1 and transposed:
        return None
    return Contraction(x, weight, bias if b_axes is not None else None, batch, transposed)  # type: ignore[arg-type]
