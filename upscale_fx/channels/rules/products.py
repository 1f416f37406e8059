"""Rules for products of two values, weights of any rank, tables looked up by an index, recurrent modules."""

from __future__ import annotations

import operator
import string
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional as F

from upscale_fx.channels.positions import Axes, Positions
from upscale_fx.channels.recurrent import endings, line_count
from upscale_fx.channels.relations import Relation
from upscale_fx.channels.relations.products import Lookup, Product, Recurrence
from upscale_fx.channels.rules.linear import contraction
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.channels.rules.registry import call_of, register
from upscale_fx.compiled import functions


@register(torch.matmul, torch.mm, torch.bmm, operator.matmul, "matmul", "mm", "bmm")
def matmul(op: Operation) -> Relation | None:
    """``x [.., I] @ weight [I, O]``, and every other form of matmul."""
    left, right = op.argument(0, "input"), op.argument(1, "other", "mat2")
    relation = contraction(op, left, right, None, True)
    if relation is not None:
        return relation
    a, b = op.axes_of(left), op.axes_of(right)
    if a is None or b is None or left is right:
        return None
    return _product(op, left, right, *_matmul_letters(a, b))


def _matmul_letters(left: Axes, right: Axes) -> tuple[str, str, str]:
    """Return the letters of ``left @ right``: batch axes align from the right, broadcast axes get separate letters."""
    first, second = len(left.sizes), len(right.sizes)
    batch = max(first, second, 2) - 2
    names = string.ascii_uppercase[:batch]
    a = (names[batch - (first - 2) :] if first > 1 else "") + ("li" if first > 1 else "i")
    b = (names[batch - (second - 2) :] if second > 1 else "") + ("ir" if second > 1 else "i")
    result = names + ("l" if first > 1 else "") + ("r" if second > 1 else "")
    spare = iter(string.ascii_uppercase[batch:])
    for name in names:
        if name in a and name in b:
            left_sizes, right_sizes = left.pairs[a.index(name)], right.pairs[b.index(name)]
            if left_sizes != right_sizes and left_sizes == (1, 1):
                a = a.replace(name, next(spare))
            elif left_sizes != right_sizes:
                b = b.replace(name, next(spare))
    return a, b, result


@register(torch.einsum, torch.functional.einsum)
def einsum(op: Operation) -> Relation | None:
    """``einsum(equation, left, right)`` of two operands."""
    equation, operands = op.argument(0, "equation"), op.call.args[1:]
    if len(operands) == 1 and isinstance(operands[0], tuple | list):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) != 2 or operands[0] is operands[1] or "." in equation:
        return None
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    a, _, b = inputs.partition(",")
    if not arrow:
        result = "".join(sorted(letter for letter in set(a + b) if (a + b).count(letter) == 1))
    return _product(op, operands[0], operands[1], a, b, result)


def _product(op: Operation, left: Any, right: Any, a: str, b: str, result: str) -> Relation | None:
    first, second = op.axes_of(left), op.axes_of(right)
    if first is None or second is None:
        return None
    shapes = (first.shape, second.shape, op.axes.shape)
    sizes: dict[str, int] = {}
    for letters, shape in zip((a, b, result), shapes, strict=True):
        if len(letters) != len(shape) or len(set(letters)) != len(letters):
            return None  # diagonals
        for letter, size in zip(letters, shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                return None
    alone = [x for x in a + b if (a + b).count(x) == 1 and x not in result]
    if any(sizes[letter] > 1 for letter in alone) or 0 in sizes.values():
        return None
    return Product(left, right, (a, b, result), shapes)


@register(F.embedding)
def embedding(op: Operation) -> Relation | None:
    """``embedding(index [..], weight [V, C])``: rows of the weight."""
    return lookup(op, op.argument(1, "weight"), 0)


@register(functions.rows_of)
def rows_of(op: Operation) -> Relation | None:
    """All rows of a table ``[V, C]``."""
    table = op.axes_of(source := op.argument(0))
    return None if table is None else Lookup(source, table.everything(), 0)


def lookup(op: Operation, source: Any, axis: int) -> Relation | None:
    """Rule for entries along one static axis of a tensor, selected by a computed index; other axes do not change.

    The operation runs on labels that are equal along the indexed axis, which shows the positions each result reads.
    """
    table = op.axes_of(source)
    if table is None or None in table.sizes or table.count == 0:
        return None
    entries = np.moveaxis(table.everything(), axis, 0).reshape(table.shape[axis], -1)
    labels = np.empty(table.count, dtype=np.int64)
    labels[entries] = np.arange(entries.shape[1])
    shaped = torch.from_numpy(labels.reshape(table.shape))
    results = []
    for side in (0, 1):
        try:
            result = op.run({source: shaped.to(torch.float64)}, side)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None
        values = op.common_values(result, side)
        if values is None:
            return None
        results.append(values.astype(np.int64))
    if not np.array_equal(results[0], results[1]):
        return None
    return Lookup(source, entries[:, results[0]], axis)


@register(nn.RNNBase)
def recurrence(op: Operation) -> Relation | None:
    """``LSTM(x [T, B, I], (h, c))``, described at the getitem of its outputs and last states."""
    module, x, given = op.module, op.argument(0, "input"), op.argument(1, "hx")
    sequence = op.axes_of(x)
    assert isinstance(module, nn.RNNBase)
    if sequence is None or module.input_size != sequence.shape[-1] or sequence.sizes[-1] is None:
        return None
    if given is x or (isinstance(given, tuple | list) and x in given):
        return None  # no channel can go of one use alone; a trace makes a copy, a change by hand may not
    weights = tuple(f"weight_ih_l0{end}" for end in endings(module))
    columns = torch.stack([(getattr(module, name) != 0).any(dim=0) for name in weights]).any(dim=0)
    others = tuple(node for node in op.tensors if node is not x)
    relation = Recurrence(x, others, str(op.call.target), weights, columns.cpu().numpy(), op.call)
    if reason := _why_states_stay(op, module, given):
        return replace(relation, reason=reason)
    _, path = call_of(op.node, op.values)
    states = _states_of(module, op.axes, path == [0])
    initial = [_states_of(module, axes, False) for axes in map(op.axes_of, others) if axes is not None]
    known = [one for one in initial if one is not None]
    if states is None or len(known) < len(others):
        shape = f"[{line_count(module)}, .., {module.hidden_size}]"
        return replace(relation, reason=f"its states do not have the shape {shape}")
    return replace(relation, states=states, initial=tuple(known))


def _why_states_stay(op: Operation, module: nn.RNNBase, given: Any) -> str:
    """Why the states of a recurrent module all stay, as far as module and arguments show; empty if they may go."""
    if type(module) not in (nn.RNN, nn.LSTM, nn.GRU):
        return f"{type(module).__name__} is a class of its own, which may use its states in other ways"
    if module.proj_size:
        return "its states are projected to others (proj_size)"
    if any(name not in module._parameters for names in module._all_weights for name in names):
        return "its weights are computed from other parameters"
    if isinstance(given, fx.Node) and op.axes_of(given) is None:
        return "its initial states are passed as a tuple that something else made"
    return ""


def _states_of(module: nn.RNNBase, axes: Axes, sequence: bool) -> Positions | None:
    """The state at every position of a sequence of outputs, or of initial or last states; None: unknown."""
    directions, lines, units, shape = len(endings(module)), line_count(module), module.hidden_size, axes.shape
    numbers = np.arange(lines * units, dtype=np.int64).reshape(lines, units)
    last, every = numbers[-directions:].reshape(-1), numbers.reshape(lines, *[1] * (len(shape) - 2), units)
    shown = last if sequence else every
    if len(shape) < 2 or axes.sizes[-1] is None or shape[-1] != shown.shape[-1]:
        return None
    if not sequence and (axes.sizes[0] is None or shape[0] != lines):
        return None
    return np.broadcast_to(shown, shape).reshape(-1).copy()
