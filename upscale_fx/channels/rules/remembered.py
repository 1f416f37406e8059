"""A memory of relations, so that each rule runs once per kind of call: graphs hold many equal calls, in every pass.

A rule of this package depends only on (1) the called function and its constants, (2) the shapes and dtypes of operands
and result on both examples, (3) which operands are equal and which are parameters or buffers, and (4) the numbers in
operands that are not floating-point: indices, masks and sizes. Calls that agree in all of these have the same relation,
between other nodes. Rules of users, calls of modules (whose rules may read parameters) and functions of users are not
remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from upscale_fx.channels.positions import Flow
from upscale_fx.channels.relations import Relation
from upscale_fx.channels.rules.operation import Operation

Rule = Callable[[Operation], Relation | None]

#: Above this many bytes of positions, all relations are forgotten.
MOST_BYTES = 1 << 26
#: Packages whose functions no user writes, so that equal calls do the same.
_KNOWN = ("torch", "torch_geometric", "upscale_fx", "_operator", "builtins")
_CONSTANTS = (int, str, type(None), type(Ellipsis), torch.dtype, torch.device, torch.memory_format, torch.layout)


@dataclass(frozen=True)
class _Operand:
    """Replaces an operand of the call in a remembered relation, by its position among the operands."""

    place: int


class _Memory:
    """Relations by key (see ``_key``)."""

    def __init__(self) -> None:
        self.relations: dict[Any, Any] = {}
        self.bytes = 0

    def add(self, key: Any, relation: Any) -> None:
        """Remember a relation; forget all others first if they take too many bytes."""
        arrays = _arrays(relation)
        for array in arrays:
            array.flags.writeable = False  # other graphs will share it
        size = 1000 + sum(array.nbytes for array in arrays)
        if self.bytes + size > MOST_BYTES:
            self.relations, self.bytes = {}, 0
        self.relations[key] = relation
        self.bytes += size


_memory = _Memory()
_UNKNOWN = object()


def remembered(rule: Rule, operation: Operation, ask: Callable[[Rule, Operation], Relation | None]) -> Relation | None:
    """Return the relation that a rule gives for a call, from memory or by ``ask(rule, operation)``."""
    key = _key(rule, operation)
    if key is None:
        return ask(rule, operation)
    operands = operation.call.all_input_nodes
    stored = _memory.relations.get(key, _UNKNOWN)
    if stored is _UNKNOWN:
        relation = ask(rule, operation)
        _memory.add(key, _replaced(relation, {node: _Operand(place) for place, node in enumerate(operands)}))
        return relation
    remembered_relation: Relation | None = _replaced(
        stored, {_Operand(place): node for place, node in enumerate(operands)}
    )
    return remembered_relation


def _key(rule: Rule, operation: Operation) -> Any:
    """Return everything that the rule depends on; None if this is unknown."""
    call = operation.call
    if operation.module is not None or not (rule.__module__ or "").startswith("upscale_fx.channels.rules."):
        return None
    if call.op == "call_function" and (
        str(call.target.__module__).partition(".")[0] not in _KNOWN
        or isinstance(call.target, torch._ops.OpOverload | torch._ops.OpOverloadPacket)
    ):
        return None
    places = {node: place for place, node in enumerate(call.all_input_nodes)}
    try:
        operands = tuple((node.op == "get_attr", _described(operation.values[node])) for node in places)
        result = tuple((value.shape, value.dtype) for value in operation.values[operation.node])
        constants = _constant((operation.item, call.args, call.kwargs), places)
    except _CannotTellError:
        return None
    return rule, call.op, call.target, operands, result, constants


class _CannotTellError(Exception):
    """A value of a type that keys cannot hold."""


def _described(pair: tuple[Any, Any]) -> Any:
    """Return the part of an operand that a rule may read."""
    if all(isinstance(value, Tensor) and value.layout == torch.strided for value in pair):
        floating = pair[0].is_floating_point() or pair[0].is_complex()
        return tuple(
            (value.shape, value.dtype, value.device, None if floating else value.cpu().numpy().tobytes())
            for value in pair
        )
    return _constant(pair, {})


def _constant(value: Any, places: dict[fx.Node, int]) -> Any:
    """Return nested arguments as a key; numbers of different types differ, and so do 0.0 and -0.0."""
    if isinstance(value, fx.Node):
        return _Operand(places[value])
    if isinstance(value, tuple | list):
        return (type(value), *(_constant(item, places) for item in value))
    if isinstance(value, dict):
        return (dict, *((key, _constant(item, places)) for key, item in value.items()))
    if isinstance(value, slice):
        return (slice, *(_constant(bound, places) for bound in (value.start, value.stop, value.step)))
    if isinstance(value, float):
        return (float, value.hex())
    if isinstance(value, _CONSTANTS):
        return (type(value), value)
    raise _CannotTellError


def _replaced(value: Any, replacements: dict[Any, Any]) -> Any:
    """Return a relation with its nodes replaced."""
    if isinstance(value, fx.Node | _Operand):
        return replacements[value]
    if isinstance(value, tuple):
        return tuple(_replaced(item, replacements) for item in value)
    if isinstance(value, Relation | Flow):
        new = object.__new__(type(value))
        new.__dict__.update({name: _replaced(item, replacements) for name, item in value.__dict__.items()})
        return new
    return value


def _arrays(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, Relation | Flow):
        return [array for item in value.__dict__.values() for array in _arrays(item)]
    return [array for item in value for array in _arrays(item)] if isinstance(value, tuple) else []
