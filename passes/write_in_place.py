"""Activations and sums write over their operand where no other call reads it and no gradient is needed.

A value is *fresh* iff the call that computes it allocates its memory: a product, an aggregation, a sum. With gradients
on, the in-place forms (``functions.relu_into``, ...) make a new tensor as usual, and so do linear layers, which
otherwise write into memory of :mod:`upscale_fx.operators.kernels.memory`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult
from torch.nn import functional as F

from upscale_fx import operators
from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.compiled import functions
from upscale_fx.compiled.calls import DIFFERENCES, PRODUCTS, RESHAPES, SUMS
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.operators.kernels import memory
from upscale_fx.passes.base import edited_flow

_FRESH = (F.linear, memory.linear, operators.spmm, operators.attend,
          functions.add_linear, functions.add_into, functions.relu_into, functions.elu_into)  # fmt: skip
_ARITHMETIC = (*SUMS, *PRODUCTS, *DIFFERENCES)


@dataclass(frozen=True)
class WriteInPlace:
    """Let activations and sums reuse memory in inference; exact."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited_flow(gm, lambda flow: sum(write_in_place(flow, node) for node in flow.nodes))


def write_in_place(flow: Dataflow, node: fx.Node) -> bool:
    """Make a call in place if its operand is fresh and no other call reads that."""
    if node not in flow.axes:
        return False
    if node.target is F.linear and len(flow.axes[node].sizes) == 2 and node.kwargs.keys() <= {"weight", "bias"}:
        node.target = memory.linear
        return True
    if node.target in (F.relu, torch.relu, "relu") and _is_fresh(flow, node.args[0], node):
        node.op, node.target, node.args, node.kwargs = "call_function", functions.relu_into, node.args[:1], {}
        return True
    if node.target is F.elu and _is_fresh(flow, node.args[0], node) and len(node.args) == 1:
        alpha = node.kwargs.get("alpha", 1.0)
        node.target, node.args, node.kwargs = functions.elu_into, (node.args[0], alpha), {}
        return True
    if node.target in SUMS and len(node.args) == 2 and not node.kwargs:
        for over, other in (node.args, node.args[::-1]):
            if _is_fresh(flow, over, node) and _has_its_shape(flow, node, over, other):
                node.op, node.target, node.args = "call_function", functions.add_into, (over, other)
                return True
    return False


def _is_fresh(flow: Dataflow, value: object, reader: fx.Node) -> bool:
    """Whether a value is fresh and only this reader reads its memory."""
    if not isinstance(value, fx.Node) or value not in flow.axes or set(value.users) != {reader}:
        return False
    if value.op == "call_method" and value.target in RESHAPES:  # a view: its source must be fresh too
        return _is_fresh(flow, value.args[0], value)
    if value.target in _ARITHMETIC:
        return value.op in ("call_function", "call_method")
    return value.op == "call_function" and value.target in _FRESH


def _has_its_shape(flow: Dataflow, node: fx.Node, over: object, other: object) -> bool:
    """Whether the sum has the shape and dtype of ``over``, the operand that it overwrites."""
    if over is other or not isinstance(over, fx.Node):
        return False
    same_shape = flow.axes[over].pairs == flow.axes[node].pairs
    return same_shape and flow.values[over][0].dtype == flow.values[node][0].dtype  # type: ignore[attr-defined]
