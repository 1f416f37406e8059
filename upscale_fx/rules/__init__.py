"""What each operation does to channels: a registry from operation to rule, one file per family of operations.

A rule takes an :class:`Operation` and returns its relation, or None where this call is not one it covers; then, and for
operations without a rule, the channels of all tensors involved stay (a barrier).
"""

from upscale_fx.rules import linear, message_passing, norm, pointwise, reduce, shape
from upscale_fx.rules.registry import REGISTRY, Operation, register, relation_of

__all__ = [
    "REGISTRY",
    "Operation",
    "linear",
    "message_passing",
    "norm",
    "pointwise",
    "reduce",
    "register",
    "relation_of",
    "shape",
]
