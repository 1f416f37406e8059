"""Products of two values, weights of any rank, tables looked up by an index, recurrent modules."""

from __future__ import annotations

import operator
import string
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from upscale_fx.channels.positions import Axes
from upscale_fx.channels.relations import Relation
from upscale_fx.channels.relations.products import Lookup, Product, Recurrence
from upscale_fx.channels.rules.linear import contraction
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.channels.rules.registry import register


@register(torch.matmul, torch.mm, torch.bmm, operator.matmul, "matmul", "mm", "bmm")
def matmul(op: Operation) -> Relation | None:
    """``x [.., I] @ weight [I, O]``, and every other form of matmul."""
    left, right = op.argument(0, "input"), op.argument(1, "other", "mat2")
    found = contraction(op, left, right, None, True)
    if found is not None:
        return found
    a, b = op.axes_of(left), op.axes_of(right)
    if a is None or b is None or left is right:
        return None
    return _product(op, left, right, *_matmul_letters(a, b))


def _matmul_letters(left: Axes, right: Axes) -> tuple[str, str, str]:
    """Letters of ``left @ right``: batch axes line up from the right, broadcast ones get letters of their own."""
    first, second = len(left.sizes), len(right.sizes)
    batch = max(first, second, 2) - 2
    names = string.ascii_uppercase[:batch]
    a = (names[batch - (first - 2) :] if first > 1 else "") + ("li" if first > 1 else "i")
    b = (names[batch - (second - 2) :] if second > 1 else "") + ("ir" if second > 1 else "i")
    result = names + ("l" if first > 1 else "") + ("r" if second > 1 else "")
    spare = iter(string.ascii_uppercase[batch:])
    for name in names:
        if name in a and name in b:
            one, other = left.pairs[a.index(name)], right.pairs[b.index(name)]
            if one != other and one == (1, 1):
                a = a.replace(name, next(spare))
            elif one != other:
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


def lookup(op: Operation, source: Any, axis: int) -> Relation | None:
    """Entries along one static axis of a tensor, chosen by a computed index; all other axes stay as they are.

    The op is run on labels of everything but the indexed axis, so that every result position knows its own.
    """
    table = op.axes_of(source)
    if table is None or None in table.sizes or table.count == 0:
        return None
    own = np.moveaxis(table.everything(), axis, 0).reshape(table.shape[axis], -1)
    labels = np.empty(table.count, dtype=np.int64)
    labels[own] = np.arange(own.shape[1])
    shaped = torch.from_numpy(labels.reshape(table.shape))
    found = []
    for side in (0, 1):
        try:
            result = op.run({source: shaped.to(torch.float64)}, side)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None
        held = op.held(result, side)
        if held is None:
            return None
        found.append(held.astype(np.int64))
    if not np.array_equal(found[0], found[1]):
        return None
    return Lookup(source, own[:, found[0]], axis)


@register(nn.RNNBase)
def recurrence(op: Operation) -> Relation | None:
    """``LSTM(x [T, B, I], (h, c))``, described at the getitem of its outputs and last states."""
    module, x = op.module, op.argument(0, "input")
    given = op.axes_of(x)
    assert isinstance(module, nn.RNNBase)
    if given is None or module.input_size != given.shape[-1] or given.sizes[-1] is None:
        return None
    weights = tuple(f"weight_ih_l0{end}" for end in ("", "_reverse") if hasattr(module, f"weight_ih_l0{end}"))
    columns = torch.stack([(getattr(module, name) != 0).any(dim=0) for name in weights]).any(dim=0)
    others = tuple(node for node in op.tensors if node is not x)
    return Recurrence(x, others, str(op.call.target), weights, columns.cpu().numpy())
