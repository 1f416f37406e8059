"""What calls of sums, differences and products of two are recorded as."""

from __future__ import annotations

import operator

import torch

SUMS = (torch.add, operator.add, "add")
DIFFERENCES = (torch.sub, operator.sub, "sub")
PRODUCTS = (torch.mul, operator.mul, "mul")


#: What only gives a tensor another shape.
RESHAPES = ("reshape", "view", "unsqueeze", "squeeze", "flatten")


def target_name(target: object) -> str:
    """The name of what a node calls: of a function its own, of a method or a module the string it is called by."""
    return target if isinstance(target, str) else str(getattr(target, "__name__", target))
