"""What calls of sums, differences and products of two are recorded as."""

from __future__ import annotations

import operator

import torch

SUMS = (torch.add, operator.add, "add")
DIFFERENCES = (torch.sub, operator.sub, "sub")
PRODUCTS = (torch.mul, operator.mul, "mul")


#: What only gives a tensor another shape.
RESHAPES = ("reshape", "view", "unsqueeze", "squeeze", "flatten")
