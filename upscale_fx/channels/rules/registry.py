"""The table of rules and how an FX node finds its own."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from upscale_fx.channels.positions import Axes, Flow, axes_of
from upscale_fx.channels.relations import Barrier, Movement, Relation, Source, Structure
from upscale_fx.channels.rules.operation import Operation, Pair
from upscale_fx.channels.rules.remembered import Rule, remembered
from upscale_fx.compiled import functions
from upscale_fx.compiled.opaque import OPAQUE_FUNCTIONS, OPAQUE_MODULES
from upscale_fx.errors import InputError, UpscaleError

#: Operation (a function, the name of a tensor method, or a module type) -> rule.
REGISTRY: dict[Any, Rule] = {}


def register(*operations: Any) -> Callable[[Rule], Rule]:
    """Register a channel rule for operations of your own; also how every rule of upscale_fx is registered.

    A rule takes an :class:`Operation` and returns the relation between the channels of its operands and of its result,
    or None where this call is not one it covers (its channels are then kept). The commonest is ready made::

        @upscale_fx.register(my_activation)
        def rule(op):
            return upscale_fx.rules.per_channel(op)

    A rule is trusted: one that is wrong makes outputs wrong. ``upscale_fx.verify`` compares with the masked model.

    Args:
        operations: functions (a Python function is then one node of every trace, not looked into), names of tensor
            methods, operators of ``torch.library`` or ``torch.ops``, or module types (likewise one node).
    """
    for operation in operations:
        known = hasattr(Tensor, operation) if isinstance(operation, str) else callable(operation)
        if not known:
            raise InputError(f"{operation!r} is no operation: neither a function, a module type nor a tensor method")
    if not operations:
        raise InputError("register() takes the operations that the rule is for")

    def add(rule: Rule) -> Rule:
        for operation in operations:
            for known in _names_in_graphs(operation):
                REGISTRY[known] = rule
            if isinstance(operation, FunctionType) and not operation.__module__.startswith(_TRACED):
                OPAQUE_FUNCTIONS.append(operation)
            elif isinstance(operation, type) and not operation.__module__.startswith(_TRACED):
                OPAQUE_MODULES.append(operation)
        return rule

    return add


#: What tracing knows already, as a leaf or by what it is made of.
_TRACED = ("torch.", "torch_geometric.", "upscale_fx.")


def _names_in_graphs(operation: Any) -> list[Any]:
    """What calls of an operation are recorded as: a custom operator as its overloads."""
    own = getattr(operation, "_opoverload", operation)  # a torch.library.custom_op
    if isinstance(own, torch._ops.OpOverloadPacket):
        return [own, *(getattr(own, name) for name in own._overload_names)]
    return [own]


def relations_of(
    values: Mapping[fx.Node, Pair], axes: Mapping[fx.Node, Axes], root: nn.Module
) -> dict[fx.Node, Relation]:
    """The relation of every node of a graph but its output; ``axes`` are those of all values that have some."""
    described: dict[fx.Node, Any] = {}
    return {
        # Not one tensor: a size, a flag, or a tuple whose elements are described at their getitem.
        node: _relation(node, values, root, described) if node in axes or node.op in _GIVEN else Structure()
        for node in values
        if node.op != "output"
    }


def relation_of(node: fx.Node, values: Mapping[fx.Node, Pair], root: nn.Module) -> Relation:
    """The relation of a node, by the registry; a barrier with a reason where no rule fits."""
    if node.op not in _GIVEN and axes_of(values[node]) is None:
        return Structure()
    return _relation(node, values, root, {})


_GIVEN = ("placeholder", "get_attr")


def _relation(
    node: fx.Node, values: Mapping[fx.Node, Pair], root: nn.Module, described: dict[fx.Node, Any]
) -> Relation:
    if node.op in _GIVEN:
        return Source()
    call, path = call_of(node, values)
    if call.op == "placeholder":
        return Source()
    operation = operation_of(node, values, root)
    if call.target is functions.entry:
        return Movement((Flow(call.args[0], np.arange(operation.axes.count)),), "entry")  # type: ignore[arg-type]
    if call.op == "call_method" and str(call.target).startswith("new_"):
        return Source(zero=call.target == "new_zeros")  # only dtype and device are read
    if call.target is torch.zeros:
        return Source(zero=True)
    exact = values[node][0].is_floating_point() or values[node][0].is_complex()
    if not exact and call.target is not functions.knn_by_features:
        return Barrier(tuple(operation.tensors), "integers or flags: structure")
    deep = len(path) > 1 and not isinstance(operation.module, nn.RNNBase)
    rule = _find(call, operation.module) if not deep else None
    if rule is None:
        return Barrier(tuple(operation.tensors), _MIXING.get(operation.name, _UNKNOWN))
    found = remembered(rule, operation, _applied, described)
    if found is None:
        return Barrier(tuple(operation.tensors), "this form of the operation is not covered by its rule")
    return found


_UNKNOWN = "no channel rule (upscale_fx.register adds one)"
#: What mixes channels by its nature, so that no rule could free them.
_MIXING = {
    "layer_norm": "a norm over channels reads them all (approximate_norms=True prunes through it)",
    "normalize": "a norm over channels reads them all (approximate_norms=True prunes through it)",
    "group_norm": "a norm over channels reads them all",
    "rms_norm": "a norm over channels reads them all",
    "softmax": "shares over channels depend on them all",
    "log_softmax": "shares over channels depend on them all",
    "sort": "an order depends on everything that is ordered",
    "topk": "an order depends on everything that is ordered",
}


def _applied(rule: Rule, operation: Operation) -> Relation | None:
    """What a rule says of a call; raises UpscaleError where a rule of the user's fails or returns something else."""
    where = (
        f"the channel rule of {operation.name} at node {operation.node.name} ({operation.call.meta.get('source', '')})"
    )
    own = getattr(rule, "__module__", "").startswith("upscale_fx.")
    try:
        found = rule(operation)
    except Exception as error:
        if own:
            raise
        raise UpscaleError(f"{where} failed: {type(error).__name__}: {error}") from error
    if found is not None and not isinstance(found, Relation):
        raise UpscaleError(f"{where} returned {found!r}; a rule returns a Relation, or None for what it does not cover")
    return found


def call_of(node: fx.Node, values: Mapping[fx.Node, Pair]) -> tuple[fx.Node, list[Any]]:
    """The call a value comes from, and the keys (innermost last) by which it is taken out of a tuple-valued one."""
    path: list[Any] = []
    while _takes_element(node, values):
        path.append(node.args[1])
        node = node.args[0]  # type: ignore[assignment]
    return node, path


def operation_of(node: fx.Node, values: Mapping[fx.Node, Pair], root: nn.Module) -> Operation:
    """A node as rules see it."""
    call, path = call_of(node, values)
    module = root.get_submodule(str(call.target)) if call.op == "call_module" else None
    return Operation(node, call, path[0] if path else None, values, module)


def _takes_element(node: fx.Node, values: Mapping[fx.Node, Pair]) -> bool:
    """Whether a node picks an element of a tuple or dictionary."""
    if node.target is not operator.getitem or not isinstance(node.args[0], fx.Node):
        return False
    return isinstance(values[node.args[0]][0], tuple | list | dict)


def rule_of(node: fx.Node, root: nn.Module) -> Rule | None:
    """The rule of the call that a node makes, if there is one."""
    return _find(node, root.get_submodule(str(node.target)) if node.op == "call_module" else None)


def _find(call: fx.Node, module: nn.Module | None) -> Rule | None:
    if module is not None:
        return next((REGISTRY[cls] for cls in type(module).__mro__ if cls in REGISTRY), None)
    try:
        return REGISTRY.get(call.target)
    except TypeError:  # an unhashable callable
        return None
