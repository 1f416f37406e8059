"""Operations that combine rows and leave channels apart: what may stand between a linear layer and its target.

``f`` is *linear along rows* iff it treats every channel by itself, all alike and linearly:
``f(x W) = f(x) W`` for every ``W``. Gathers and sums of rows by edge, products with a weight per row and dropout in
``eval()`` are; activations, per-channel scales and maxima are not. Found by running the operation on random values of
several widths.
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
    """Whether a call adds two values and nothing else."""
    return node.target in SUMS and len(node.args) == 2 and not node.kwargs


def is_linear_along_rows(flow: Dataflow, node: fx.Node, operand: fx.Node) -> bool:
    """Whether a call is linear along rows in one operand, the others as they are."""
    if node.op not in ("call_function", "call_method") or node not in flow.axes or operand not in flow.axes:
        return False
    if list(node.all_input_nodes).count(operand) != 1 or _times(node, operand) != 1:
        return False
    value = flow.values[operand][0]
    operation = operation_of(node, flow.values, flow.module)
    if operation.call is not node or not isinstance(value, Tensor) or not value.is_floating_point() or not value.dim():
        return False
    draw = torch.Generator().manual_seed(0)
    one, two = (torch.randn((*value.shape[:-1], 3), generator=draw, dtype=torch.float64).to(value) for _ in range(2))
    with in_mode(flow.module, training=False), undisturbed(flow.module):
        whole = _run(operation, operand, one)
        if whole is None or whole.dim() != value.dim() or whole.shape[-1] != 3:
            return False
        parts = [_run(operation, operand, one[..., c : c + 1].contiguous()) for c in range(3)]
        other, both = _run(operation, operand, two), _run(operation, operand, 2 * one - two)
        none = _run(operation, operand, torch.zeros_like(one))
    if any(part is None for part in parts) or other is None or both is None or none is None:
        return False
    apart = torch.cat([part for part in parts if part is not None], dim=-1)
    return _close(apart, whole) and _close(both, 2 * whole - other) and not bool(none.any())


def _times(node: fx.Node, operand: fx.Node) -> int:
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)
    return found.count(operand)


def _run(operation: Operation, operand: fx.Node, value: Tensor) -> Tensor | None:
    try:
        result = operation.run({operand: value}, 0)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None
    return result if isinstance(result, Tensor) else None


def _close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape or not bool(torch.isfinite(expected).all()):
        return False
    scale = max(float(expected.abs().max()), 1.0) if expected.numel() else 1.0
    return float((found - expected).abs().max()) <= _TOLERANCE * scale if expected.numel() else True
