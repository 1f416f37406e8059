"""The targets that nodes of a graph have for sums, differences, products and reshapes."""

from __future__ import annotations

import operator

import torch

SUMS = (torch.add, operator.add, "add")
DIFFERENCES = (torch.sub, operator.sub, "sub")
PRODUCTS = (torch.mul, operator.mul, "mul")


#: Methods that only change the shape of a tensor.
RESHAPES = ("reshape", "view", "unsqueeze", "squeeze", "flatten")


def target_name(target: object) -> str:
    """Return the name of a node's target: the name of a function, or the string that names a method or module."""
    return target if isinstance(target, str) else str(getattr(target, "__name__", target))


def describe_call(kind: str, target: object) -> str:
    """Return a call's name for messages, such as ``Tensor.view`` or ``module convs.0``, by its node's op and target."""
    if kind == "call_function":
        return target_name(target)
    return f"Tensor.{target}" if kind == "call_method" else f"module {target}"
