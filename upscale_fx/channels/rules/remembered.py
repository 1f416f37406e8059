"""A memory of relations, so that each rule runs once per kind of call: graphs hold many equal calls, in every pass.

A rule of this package depends only on (1) the called function and its constants, (2) the shapes and dtypes of operands
and result on both examples, (3) which operands are equal and which are parameters or buffers, and (4) the numbers in
operands that are not floating-point: indices, masks and sizes. Calls that agree in all of these have the same relation,
between other nodes. Rules of users, calls of modules (whose rules may read parameters) and functions of users are not
remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from upscale_fx.channels.positions import Flow
from upscale_fx.channels.relations import Relation
from upscale_fx.channels.rules.operation import Operation

Rule = Callable[[Operation], Relation | None]

#: Above this many bytes of positions and keys, all relations are forgotten.
MOST_BYTES = 1 << 26
#: Packages whose functions no user writes.
_KNOWN = {"torch", "torch_geometric", "upscale_fx", "_operator", "builtins"}
_CONSTANTS = {int, bool, str, type(None), type(Ellipsis), torch.dtype, torch.device, torch.memory_format, torch.layout}


#: Makes a relation from the operands of a call, in the order in which the call takes them.
Template = Callable[[Sequence[fx.Node]], Any]


class _Memory:
    """Relations by rule and kind of call (see ``call_kind``)."""

    def __init__(self) -> None:
        self.templates: dict[Any, Template] = {}
        self.bytes = 0

    def add(self, key: Any, relation: Relation | None, operands: Sequence[fx.Node]) -> None:
        """Remember a relation; forget all others first if they take too many bytes."""
        arrays = _arrays(relation)
        for array in arrays:
            array.flags.writeable = False  # other graphs will share it
        size = 1000 + sum(array.nbytes for array in arrays) + sum(map(len, _contents(key)))
        if self.bytes + size > MOST_BYTES:
            forget()
        self.templates[key] = _template(relation, {node: place for place, node in enumerate(operands)})
        self.bytes += size


_memory = _Memory()


def forget() -> None:
    """Forget all relations."""
    _memory.templates, _memory.bytes = {}, 0


def remembered(
    rule: Rule,
    operation: Operation,
    ask: Callable[[Rule, Operation], Relation | None],
    described: dict[fx.Node, Any],
) -> Relation | None:
    """Return the relation that a rule gives for a call, from memory or by ``ask(rule, operation)``.

    ``described`` stores the keys of operands; it is valid as long as the example values are the same.
    """
    kind = call_kind(operation, described)
    if kind is None or not (rule.__module__ or "").startswith("upscale_fx.channels.rules."):
        return ask(rule, operation)
    key, operands = (rule, kind), operation.call.all_input_nodes
    template = _memory.templates.get(key)
    if template is not None:
        known: Relation | None = template(operands)
        return known
    relation = ask(rule, operation)
    _memory.add(key, relation, operands)
    return relation


def call_kind(operation: Operation, described: dict[fx.Node, Any]) -> Any:
    """Return a key of everything that the relation and row order of a call depend on (1 to 4); None if unknown."""
    call = operation.call
    target: Any = call.target
    if type(operation.module) is nn.Dropout:
        target = nn.Dropout  # which does nothing in eval()
    elif operation.module is not None or (call.op == "call_function" and not _is_known(target)):
        return None
    places = {node: place for place, node in enumerate(call.all_input_nodes)}
    try:
        for node in places:
            if node not in described:
                described[node] = (node.op == "get_attr", _described(operation.values[node]))
        operands = tuple([described[node] for node in places])
        constants = _constant((operation.item, call.args, call.kwargs), places)
    except _CannotTellError:
        return None
    results = operation.values[operation.node]
    result = tuple([(value.shape, value.dtype) if isinstance(value, Tensor) else type(value) for value in results])
    return call.op, target, operands, result, constants


def _is_known(target: Any) -> bool:
    """Whether this is a function of a known package, so that equal calls do the same."""
    return isinstance(target, FunctionType | BuiltinFunctionType) and _package_of(target) in _KNOWN


def _package_of(function: FunctionType | BuiltinFunctionType) -> str:
    return str(function.__module__).partition(".")[0]


class _CannotTellError(Exception):
    """A value of a type that keys cannot hold."""


def _described(pair: tuple[Any, Any]) -> Any:
    """Return the key of an operand: everything of it that a rule may read."""
    small, large = pair
    if isinstance(small, Tensor) and isinstance(large, Tensor):
        if small.layout != torch.strided or large.layout != torch.strided:
            raise _CannotTellError
        shapes = (small.shape, large.shape, small.dtype, large.dtype, small.device)
        if small.is_floating_point() or small.is_complex():
            return shapes
        return (*shapes, small.cpu().numpy().tobytes(), large.cpu().numpy().tobytes())
    return _constant(pair, {})


#: Objects that replace operands in keys, by position.
_OPERANDS = [object() for _ in range(1 << 10)]


def _constant(value: Any, places: dict[fx.Node, int]) -> Any:
    """Return nested arguments as a key; numbers of different types differ, and so do 0.0 and -0.0."""
    kind = type(value)
    if kind is fx.Node:
        return _operand(places[value])
    if kind in _CONSTANTS:
        return (kind, value)
    if isinstance(value, tuple | list):
        return (kind, *[_constant(one, places) for one in value])
    if isinstance(value, dict):
        return (dict, *[(key, _constant(one, places)) for key, one in value.items()])
    if isinstance(value, float):
        return (float, value.hex())
    if isinstance(value, slice):
        return (slice, *[_constant(one, places) for one in (value.start, value.stop, value.step)])
    raise _CannotTellError


def _operand(place: int) -> object:
    if place >= len(_OPERANDS):
        raise _CannotTellError
    return _OPERANDS[place]


def _template(value: Any, places: dict[fx.Node, int]) -> Template:
    """Return a function that makes a relation, or a part of one, between other operands."""
    if isinstance(value, fx.Node):
        return itemgetter(places[value])
    if isinstance(value, tuple) and _has_nodes(value):
        parts = [_template(one, places) for one in value]
        return lambda operands: tuple([part(operands) for part in parts])
    if isinstance(value, Relation | Flow) and _has_nodes(value):
        return _template_of_fields(value, places)
    return lambda operands: value


def _template_of_fields(value: Relation | Flow, places: dict[fx.Node, int]) -> Template:
    kind = type(value)
    same = {name: one for name, one in value.__dict__.items() if not _has_nodes(one)}
    moving = [(name, _template(one, places)) for name, one in value.__dict__.items() if _has_nodes(one)]

    def make(operands: Sequence[fx.Node]) -> Any:
        new = object.__new__(kind)
        fields = new.__dict__
        fields.update(same)
        for name, part in moving:
            fields[name] = part(operands)
        return new

    return make


def _has_nodes(value: Any) -> bool:
    if isinstance(value, Relation | Flow):
        return any(map(_has_nodes, value.__dict__.values()))
    return isinstance(value, fx.Node) or (isinstance(value, tuple) and any(map(_has_nodes, value)))


def _arrays(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, Relation | Flow):
        return [array for one in value.__dict__.values() for array in _arrays(one)]
    return [array for one in value for array in _arrays(one)] if isinstance(value, tuple) else []


def _contents(key: Any) -> list[bytes]:
    """Return the bytes of operands in a key."""
    if isinstance(key, bytes):
        return [key]
    return [content for one in key for content in _contents(one)] if isinstance(key, tuple) else []
