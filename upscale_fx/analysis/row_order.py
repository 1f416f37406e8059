"""How an operation's result changes when the edges get another order.

The test runs the operation on an example graph with the rows of its edge-level operands permuted. The operation
*follows* the order if its result is permuted in the same way (activations, products, linear layers, gathers by edge,
softmax over the edges of a node), *ignores* it if its result stays the same (aggregations, row counts), and *depends*
on it otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor, fx, nn

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.channels.rules.registry import operation_of
from upscale_fx.channels.rules.remembered import call_kind
from upscale_fx.compiled.undisturbed import in_mode, undisturbed


class Order(Enum):
    """How an operation's result changes when the rows of its operands are permuted."""

    FOLLOWS = "follows"
    IGNORES = "ignores"
    DEPENDS = "depends"


#: Modules without state that training changes; the state of others depends on the order or the number of calls.
_STATELESS = (nn.Dropout, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.SiLU, nn.Identity)


def order_of(flow: Dataflow, node: fx.Node, operands: Collection[fx.Node]) -> Order:
    """Return how the result of a call changes when the rows (axis 0) of these operands are permuted together."""
    if node.op not in ("call_function", "call_method", "call_module") or not operands:
        return Order.DEPENDS
    operation = operation_of(node, flow.values, flow.module)
    if operation.call is not node or (operation.module is not None and not isinstance(operation.module, _STATELESS)):
        return Order.DEPENDS
    kind = call_kind(operation, {})
    if kind is None:
        return _tried(flow, node, operation, operands)
    places = tuple(node.all_input_nodes.index(operand) for operand in operands)
    if (kind, places) not in _known:
        if len(_known) == _MOST_KNOWN:
            _known.clear()
        _known[kind, places] = _tried(flow, node, operation, operands)
    return _known[kind, places]


#: Results by kind of call and permuted operands; equal calls of all layers draw the same random numbers.
_known: dict[Any, Order] = {}
_MOST_KNOWN = 1 << 10


def _tried(flow: Dataflow, node: fx.Node, operation: Operation, operands: Collection[fx.Node]) -> Order:
    draw = torch.Generator().manual_seed(0)
    original = _random_operands(flow, node, draw)
    counts = {original[operand].shape[0] for operand in operands}
    if len(counts) != 1:
        return Order.DEPENDS
    shuffled = torch.randperm(counts.pop(), generator=draw)
    permuted = original | {operand: original[operand][shuffled.to(original[operand].device)] for operand in operands}
    with in_mode(flow.module, training=False), undisturbed(flow.module):
        try:
            before, after = operation.run(original, 1), operation.run(permuted, 1)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return Order.DEPENDS
    return _compare(before, after, shuffled)


def _random_operands(flow: Dataflow, node: fx.Node, draw: torch.Generator) -> dict[fx.Node, Tensor]:
    """Return a call's tensor operands on the larger example graph, filled with random numbers."""
    values = {source: flow.values[source][1] for source in node.all_input_nodes}
    return {source: _random_like(value, draw) for source, value in values.items() if isinstance(value, Tensor)}


def _random_like(value: Tensor, draw: torch.Generator) -> Tensor:
    """Return positive random numbers, since example values may be all zeros or ones; indices stay as they are."""
    if not value.is_floating_point():
        return value
    return (torch.rand(value.shape, generator=draw, dtype=torch.float64) + 0.5).to(value)


def _compare(before: object, after: object, shuffled: Tensor) -> Order:
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        comparable = isinstance(before, int | float | torch.dtype | torch.device)
        return Order.IGNORES if comparable and before == after else Order.DEPENDS
    if before.shape != after.shape:
        return Order.DEPENDS
    follows = before.dim() > 0 and before.shape[0] == len(shuffled)
    if follows and _same(after, before[shuffled.to(before.device)]):
        return Order.FOLLOWS
    return Order.IGNORES if _same(after, before) else Order.DEPENDS


def _same(actual: Tensor, expected: Tensor) -> bool:
    """Equal up to rounding."""
    if not expected.is_floating_point():
        return torch.equal(actual, expected)
    return torch.allclose(actual, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


def commutes_with_gather(flow: Dataflow, node: fx.Node, replaced: Mapping[fx.Node, fx.Node]) -> bool:
    """Whether a call may run before a gather of rows instead of after it: ``f(x[index]) == f(x)[index]``.

    Args:
        flow: the analysed graph.
        node: the call.
        replaced: gathered operand -> the value it is gathered from.
    """
    if node.op not in ("call_function", "call_method"):
        return False
    operation = operation_of(node, flow.values, flow.module)
    draw = torch.Generator().manual_seed(0)
    operands = _random_operands(flow, node, draw)
    whole = {operand: _random_like(flow.values[x][1], draw) for operand, x in replaced.items()}  # type: ignore[arg-type]
    counts = {value.shape[0] for value in whole.values()}
    if operation.call is not node or len(counts) != 1:
        return False
    edges = flow.values[next(iter(replaced))][1].shape[0]  # type: ignore[attr-defined]
    index = torch.randint(counts.pop(), (edges,), generator=draw)
    rows = {operand: value[index.to(value.device)] for operand, value in whole.items()}
    with in_mode(flow.module, training=False), undisturbed(flow.module):
        try:
            on_values, on_rows = operation.run(operands | whole, 1), operation.run(operands | rows, 1)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return False
    if (
        not isinstance(on_values, Tensor)
        or not isinstance(on_rows, Tensor)
        or not on_values.dim()
        or not on_rows.is_floating_point()
    ):
        return False
    return on_rows.shape == (edges, *on_values.shape[1:]) and _same(on_rows, on_values[index.to(on_values.device)])
