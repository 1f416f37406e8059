"""Rules for pointwise operations: activations, arithmetic with broadcasting, dropout."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscale_fx.channels.positions import Flow
from upscale_fx.channels.relations import Pointwise, Relation, Zero
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.channels.rules.registry import register

_UNARY = (
    "relu relu6 elu selu celu leaky_relu gelu silu mish tanh sigmoid hardtanh hardswish hardsigmoid softplus softsign "
    "logsigmoid tanhshrink threshold rrelu exp expm1 log log1p log2 sqrt rsqrt square abs neg negative sign sin cos "
    "tan atan asinh erf reciprocal clamp clamp_min clamp_max clip nan_to_num floor ceil round frac "
    "dropout float double half bfloat16 to type type_as clone contiguous detach cpu "
    "zeros_like ones_like full_like masked_fill nan_to_num hardshrink softshrink conj real imag"
).split()
_ALL_ZERO = "add sub subtract rsub maximum minimum where lerp hypot complex".split()
_ANY_ZERO = "mul multiply".split()
_FIRST_ZERO = "div divide true_divide truediv".split()


def _callables(name: str) -> list[Any]:
    """Return all calls of this name that a trace may hold: tensor method, torch, functional and operator functions."""
    callables: list[Any] = [name] if callable(getattr(Tensor, name, None)) else []
    for space in (torch, F, operator, torch._C._nn):
        function = getattr(space, name, None)
        if callable(function) and not isinstance(function, type):
            callables.append(function)
    return callables


def _register_all(names: list[str], rule: Callable[[Operation], Relation | None]) -> None:
    for name in names:
        register(*_callables(name))(rule)


def per_channel(op: Operation) -> Relation | None:
    """Rule for operations whose result channels depend only on the same channel of the operands, in any rows.

    Zero stays zero if there is one operand and the operation returns zeros for zeros. Modules with parameters or
    buffers are not covered, because these would have to be cut.
    """
    if op.module is not None and (*op.module.parameters(), *op.module.buffers()):
        return None
    operands = [source for source in op.tensors if op.values[source][0].is_floating_point()]
    flows = [op.aligned(source) for source in operands]
    if not flows or any(flow is None for flow in flows):
        return None
    zero: Zero = "all" if len(operands) == len(op.tensors) == 1 and _keeps_zero(op) else "never"
    return Pointwise(tuple(flow for flow in flows if flow is not None), zero)


def unary(op: Operation) -> Relation | None:
    """Rule for one operand with channels; running the operation on zeros shows whether zero stays zero."""
    flows = _flows(op)
    if flows is None or not flows or flows[0].source is not op.call.all_input_nodes[0]:
        return None
    if len(flows) > 1:  # masked_fill(x, mask, value), type_as(x, other)
        return Pointwise(tuple(flows), "never")
    return Pointwise(tuple(flows), "all" if _keeps_zero(op) else "never")


def _keeps_zero(op: Operation) -> bool:
    source = op.tensors[0]
    zeros = torch.zeros_like(op.values[source][0])
    with torch.random.fork_rng(devices=[]):
        result = op.run({source: zeros})
    return isinstance(result, Tensor) and not bool(result.any())


def _joined(zero: Zero) -> Callable[[Operation], Relation | None]:
    def rule(op: Operation) -> Relation | None:
        flows = _flows(op)
        if not flows:
            return None
        if len(flows) == 1:  # the other operand is a number, or the same node again
            return Pointwise(tuple(flows), "all" if _keeps_zero(op) else "never")
        if zero == "first" and flows[0].source is not op.argument(0, "input"):
            return Pointwise(tuple(flows), "never")
        return Pointwise(tuple(flows), zero)

    return rule


def _flows(op: Operation) -> list[Flow] | None:
    flows = [op.aligned(source) for source in op.tensors]
    return None if any(flow is None for flow in flows) else flows  # type: ignore[return-value]


def shifted(op: Operation) -> Relation | None:
    """Alpha dropout: zero stays zero in eval() but not in train()."""
    flows = _flows(op)
    return Pointwise(tuple(flows), "never") if flows else None


_register_all(_UNARY, unary)
_register_all(["alpha_dropout", "feature_alpha_dropout"], shifted)
_register_all(_ALL_ZERO, _joined("all"))
_register_all(_ANY_ZERO, _joined("any"))
_register_all(_FIRST_ZERO, _joined("first"))


@register(torch.pow, operator.pow, "pow")
def power(op: Operation) -> Relation | None:
    """``x ** number``; running it on zeros shows whether zero stays zero. With a tensor exponent it may not."""
    flows = _flows(op)
    if not flows:
        return None
    return Pointwise(tuple(flows), "all" if len(flows) == 1 and _keeps_zero(op) else "never")


@register(torch.addcmul, "addcmul")
def addcmul(op: Operation) -> Relation | None:
    """``x + value * a * b``: zero where all operands are zero."""
    flows = _flows(op)
    return Pointwise(tuple(flows), "all") if flows else None


@register(F.prelu, torch.prelu, "prelu")
def prelu(op: Operation) -> Relation | None:
    """``prelu(x [N, C, ..], weight [C])``: zero stays zero for any weight."""
    x, weight = op.argument(0, "input"), op.argument(1, "weight")
    slope = op.axes_of(weight)
    if slope is None or len(slope.shape) > 1 or (slope.count > 1 and len(op.axes.shape) < 2):
        return None
    along = op.aligned(weight, (1 if slope.count > 1 else None,) * len(slope.shape))
    flow = op.aligned(x)
    return Pointwise((flow, along), "first") if flow is not None and along is not None else None


@register(nn.Dropout)
def dropout(op: Operation) -> Relation | None:
    """``Dropout(x)``: zero stays zero; the module switches modes itself."""
    flow = op.aligned(op.tensors[0])
    return Pointwise((flow,), "all") if flow is not None else None
