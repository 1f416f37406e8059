"""Recognise operations that are linear along rows, and so may be swapped with a linear layer.

``f`` is *linear along rows* iff it treats each channel by itself, all channels alike, and linearly:
``f(x W) = f(x) W`` for every ``W``. Gathers and sums of rows by edge, products with a weight per row, and dropout in
``eval()`` are linear along rows; activations, per-channel scales and maxima are not. The test runs the operation on
random values of several widths.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.channels.rules.registry import operation_of
from upscale_fx.compiled.calls import SUMS
from upscale_fx.compiled.undisturbed import in_mode, undisturbed

#: Relative tolerance of the comparison, for float32.
_TOLERANCE = 1e-4


def is_sum(node: fx.Node) -> bool:
    """Whether a call only adds two values."""
    return node.target in SUMS and len(node.args) == 2 and not node.kwargs


def is_linear_along_rows(flow: Dataflow, node: fx.Node, operand: fx.Node) -> bool:
    """Whether a call is linear along rows in one operand, with the others fixed."""
    if node.op not in ("call_function", "call_method") or node not in flow.axes or operand not in flow.axes:
        return False
    if list(node.all_input_nodes).count(operand) != 1 or _times(node, operand) != 1:
        return False
    value = flow.values[operand][0]
    operation = operation_of(node, flow.values, flow.module)
    if operation.call is not node or not isinstance(value, Tensor) or not value.is_floating_point() or not value.dim():
        return False
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn((*value.shape[:-1], 3), generator=draw, dtype=torch.float64).to(value) for _ in range(2))
    with in_mode(flow.module, training=False), undisturbed(flow.module):
        of_x = _run(operation, operand, x)
        if of_x is None or of_x.dim() != value.dim() or of_x.shape[-1] != 3:
            return False
        channels = [_run(operation, operand, x[..., c : c + 1].contiguous()) for c in range(3)]
        of_y, of_both = _run(operation, operand, y), _run(operation, operand, 2 * x - y)
        of_zero = _run(operation, operand, torch.zeros_like(x))
    if any(channel is None for channel in channels) or of_y is None or of_both is None or of_zero is None:
        return False
    joined = torch.cat([channel for channel in channels if channel is not None], dim=-1)
    return _close(joined, of_x) and _close(of_both, 2 * of_x - of_y) and not bool(of_zero.any())


def _times(node: fx.Node, operand: fx.Node) -> int:
    arguments: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), arguments.append)
    return arguments.count(operand)


def _run(operation: Operation, operand: fx.Node, value: Tensor) -> Tensor | None:
    try:
        result = operation.run({operand: value}, 0)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None
    return result if isinstance(result, Tensor) else None


def _close(actual: Tensor, expected: Tensor) -> bool:
    if actual.shape != expected.shape or not bool(torch.isfinite(expected).all()):
        return False
    scale = max(float(expected.abs().max()), 1.0) if expected.numel() else 1.0
    return float((actual - expected).abs().max()) <= _TOLERANCE * scale if expected.numel() else True
