"""Channel rules: a registry from operation to rule, one file per family of operations.

A rule takes an :class:`Operation` and returns its relation, or None if it does not cover this call. Such a call, and
any operation without a rule, is a barrier: all channels of its tensors are kept.
"""

from upscale_fx.channels.positions import Flow
from upscale_fx.channels.rules import (
    approximate,
    convolution,
    linear,
    message_passing,
    norm,
    pointwise,
    products,
    reduce,
    regrouping,
    shape,
)
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.channels.rules.pointwise import per_channel
from upscale_fx.channels.rules.registry import REGISTRY, register, relation_of, relations_of

__all__ = [
    "REGISTRY",
    "Flow",
    "Operation",
    "approximate",
    "convolution",
    "linear",
    "message_passing",
    "norm",
    "per_channel",
    "pointwise",
    "products",
    "reduce",
    "register",
    "regrouping",
    "relation_of",
    "relations_of",
    "shape",
]
