"""Rules are asked once per kind of call: a graph holds many that are alike, and every pass analyses its graph anew.

What a rule of this package says of a call depends on nothing but (1) the function that is called and its constants,
(2) the shapes and dtypes of the operands and of the result on both examples, (3) which operands are the same and which
are parameters or buffers, and (4) the numbers in operands that are not floating-point: indices, masks and sizes. Calls
that agree in all of these have the same relation between other nodes. A rule of the user's, a call of a module, which
may look at its parameters, and a function of the user's are asked about every time.
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

#: Above this many bytes of positions, everything remembered is forgotten.
MOST_BYTES = 1 << 26
#: What every call of does the same: packages whose functions no user writes.
_KNOWN = ("torch", "torch_geometric", "upscale_fx", "_operator", "builtins")
_CONSTANTS = (int, str, type(None), type(Ellipsis), torch.dtype, torch.device, torch.memory_format, torch.layout)


@dataclass(frozen=True)
class _Operand:
    """Stands in a remembered relation for an operand of the call, by its place among them."""

    place: int


class _Memory:
    """Relations by what calls depend on."""

    def __init__(self) -> None:
        self.relations: dict[Any, Any] = {}
        self.bytes = 0

    def add(self, key: Any, relation: Any) -> None:
        """Remember a relation; forget the others first where they are too many."""
        arrays = _arrays(relation)
        for array in arrays:
            array.flags.writeable = False  # other graphs will hold the same ones
        size = 1000 + sum(array.nbytes for array in arrays)
        if self.bytes + size > MOST_BYTES:
            self.relations, self.bytes = {}, 0
        self.relations[key] = relation
        self.bytes += size


_memory = _Memory()
_UNKNOWN = object()


def remembered(rule: Rule, operation: Operation, ask: Callable[[Rule, Operation], Relation | None]) -> Relation | None:
    """What a rule says of a call: from memory, or by ``ask(rule, operation)``."""
    key = _key(rule, operation)
    if key is None:
        return ask(rule, operation)
    operands = operation.call.all_input_nodes
    found = _memory.relations.get(key, _UNKNOWN)
    if found is _UNKNOWN:
        relation = ask(rule, operation)
        places = {node: _Operand(place) for place, node in enumerate(operands)}
        _memory.add(key, _placed(relation, places))
        return relation
    known: Relation | None = _placed(found, {_Operand(place): node for place, node in enumerate(operands)})
    return known


def _key(rule: Rule, operation: Operation) -> Any:
    """All that the rule's answer depends on; None where that cannot be told."""
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
    """A value of a kind that is not compared."""


def _described(pair: tuple[Any, Any]) -> Any:
    """What counts of an operand."""
    if all(isinstance(value, Tensor) and value.layout == torch.strided for value in pair):
        floating = pair[0].is_floating_point() or pair[0].is_complex()
        return tuple(
            (value.shape, value.dtype, value.device, None if floating else value.cpu().numpy().tobytes())
            for value in pair
        )
    return _constant(pair, {})


def _constant(value: Any, places: dict[fx.Node, int]) -> Any:
    """Nested arguments as a key: numbers of different types are different, and so is each zero."""
    if isinstance(value, fx.Node):
        return _Operand(places[value])
    if isinstance(value, tuple | list):
        return (type(value), *(_constant(one, places) for one in value))
    if isinstance(value, dict):
        return (dict, *((key, _constant(one, places)) for key, one in value.items()))
    if isinstance(value, slice):
        return (slice, *(_constant(one, places) for one in (value.start, value.stop, value.step)))
    if isinstance(value, float):
        return (float, value.hex())
    if isinstance(value, _CONSTANTS):
        return (type(value), value)
    raise _CannotTellError


def _placed(value: Any, places: dict[Any, Any]) -> Any:
    """A relation between other nodes."""
    if isinstance(value, fx.Node | _Operand):
        return places[value]
    if isinstance(value, tuple):
        return tuple(_placed(one, places) for one in value)
    if isinstance(value, Relation | Flow):
        new = object.__new__(type(value))
        new.__dict__.update({name: _placed(one, places) for name, one in value.__dict__.items()})
        return new
    return value


def _arrays(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, Relation | Flow):
        return [array for one in value.__dict__.values() for array in _arrays(one)]
    return [array for one in value for array in _arrays(one)] if isinstance(value, tuple) else []
