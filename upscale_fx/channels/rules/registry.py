"""The table of rules, and the search for the rule of an FX node."""

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
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.channels.rules.remembered import Rule, remembered
from upscale_fx.compiled import functions
from upscale_fx.compiled.example_values import Pair
from upscale_fx.compiled.guards.failures import at_node
from upscale_fx.compiled.opaque import OPAQUE_FUNCTIONS, OPAQUE_MODULES
from upscale_fx.compiled.progress import advance
from upscale_fx.errors import InputError, UpscaleError

#: Operation (a function, the name of a tensor method, or a module type) -> rule.
REGISTRY: dict[Any, Rule] = {}


def register(*operations: Any) -> Callable[[Rule], Rule]:
    """Register a channel rule for your own operations; upscale_fx registers its rules in the same way.

    A rule takes an :class:`Operation` and returns the relation between the channels of its operands and of its result,
    or None if it does not cover this call (whose channels are then kept). The most common rule is ready-made::

        @upscale_fx.register(my_activation)
        def rule(op):
            return upscale_fx.rules.per_channel(op)

    A rule is trusted: a wrong rule makes wrong outputs. ``upscale_fx.verify`` compares them with the masked model.

    Args:
        operations: functions (a trace then records a call of a Python function as one node), names of tensor methods,
            operators of ``torch.library`` or ``torch.ops``, or module types (also recorded as one node).
    """
    for operation in operations:
        is_operation = hasattr(Tensor, operation) if isinstance(operation, str) else callable(operation)
        if not is_operation:
            raise InputError(f"{operation!r} is no operation: neither a function, a module type nor a tensor method")
    if not operations:
        raise InputError("register() takes the operations that the rule is for")

    def add(rule: Rule) -> Rule:
        for operation in operations:
            for target in _names_in_graphs(operation):
                REGISTRY[target] = rule
            if isinstance(operation, FunctionType) and not operation.__module__.startswith(_TRACED):
                OPAQUE_FUNCTIONS.append(operation)
            elif isinstance(operation, type) and not operation.__module__.startswith(_TRACED):
                OPAQUE_MODULES.append(operation)
        return rule

    return add


#: Packages that tracing knows: it records their functions and modules as nodes, or traces into them.
_TRACED = ("torch.", "torch_geometric.", "upscale_fx.")


def _names_in_graphs(operation: Any) -> list[Any]:
    """Return the targets that nodes may have for an operation; a custom operator also has its overloads."""
    target = getattr(operation, "_opoverload", operation)  # a torch.library.custom_op
    if isinstance(target, torch._ops.OpOverloadPacket):
        return [target, *(getattr(target, name) for name in target._overload_names)]
    return [target]


def relations_of(
    values: Mapping[fx.Node, Pair], axes: Mapping[fx.Node, Axes], root: nn.Module
) -> dict[fx.Node, Relation]:
    """Return the relation of every node of a graph but its output; ``axes`` are those of all tensor values."""
    described: dict[fx.Node, Any] = {}
    relations: dict[fx.Node, Relation] = {}
    for node in values:
        if node.op != "output":
            # Structure is a size, a flag, or a tuple; for elements of a tuple, their getitem nodes are described.
            known = node in axes or node.op in _GIVEN
            relations[node] = _relation(node, values, root, described) if known else Structure()
            advance()
    return relations


def relation_of(node: fx.Node, values: Mapping[fx.Node, Pair], root: nn.Module) -> Relation:
    """Return the relation of a node by its rule; without a rule that covers it, a barrier with a reason."""
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
        return Source(zero=call.target == "new_zeros")  # reads only dtype and device
    if call.target is torch.zeros:
        return Source(zero=True)
    is_feature = values[node][0].is_floating_point() or values[node][0].is_complex()
    if not is_feature and call.target is not functions.knn_by_features:
        return Barrier(tuple(operation.tensors), "integers or flags: structure")
    deep = len(path) > 1 and not isinstance(operation.module, nn.RNNBase)
    rule = _find(call, operation.module) if not deep else None
    if rule is None:
        return Barrier(tuple(operation.tensors), _MIXING.get(operation.name, _UNKNOWN))
    relation = remembered(rule, operation, _applied, described)
    if relation is None:
        return Barrier(tuple(operation.tensors), "this form of the operation is not covered by its rule")
    return relation


_UNKNOWN = "no channel rule (upscale_fx.register adds one)"
#: Operations that mix all channels, so that no rule could free any: name -> reason.
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
    """Return the relation that a rule gives for a call; raises UpscaleError if a user's rule does not give one."""
    where = (
        f"the channel rule of {operation.name} at node {operation.node.name} ({operation.call.meta.get('source', '')})"
    )
    is_built_in = getattr(rule, "__module__", "").startswith("upscale_fx.")
    try:
        relation = rule(operation)
    except Exception as error:
        if is_built_in:
            at_node(error, operation.node)
            raise
        raise UpscaleError(f"{where} failed: {type(error).__name__}: {error}") from error
    if relation is not None and not isinstance(relation, Relation):
        raise UpscaleError(
            f"{where} returned {relation!r}; a rule returns a Relation, or None for what it does not cover"
        )
    return relation


def call_of(node: fx.Node, values: Mapping[fx.Node, Pair]) -> tuple[fx.Node, list[Any]]:
    """Return the call that computes a value, and the getitem keys from its tuple to the value, the last key first."""
    path: list[Any] = []
    while _takes_element(node, values):
        path.append(node.args[1])
        node = node.args[0]  # type: ignore[assignment]
    return node, path


def operation_of(node: fx.Node, values: Mapping[fx.Node, Pair], root: nn.Module) -> Operation:
    """Return the operation that rules get for a node."""
    call, path = call_of(node, values)
    module = root.get_submodule(str(call.target)) if call.op == "call_module" else None
    return Operation(node, call, path[0] if path else None, values, module)


def _takes_element(node: fx.Node, values: Mapping[fx.Node, Pair]) -> bool:
    """Whether a node takes an element of a tuple or dictionary."""
    if node.target is not operator.getitem or not isinstance(node.args[0], fx.Node):
        return False
    return isinstance(values[node.args[0]][0], tuple | list | dict)


def rule_of(node: fx.Node, root: nn.Module) -> Rule | None:
    """Return the rule of a node's call; None if there is none."""
    return _find(node, root.get_submodule(str(node.target)) if node.op == "call_module" else None)


def _find(call: fx.Node, module: nn.Module | None) -> Rule | None:
    if module is not None:
        return next((REGISTRY[cls] for cls in type(module).__mro__ if cls in REGISTRY), None)
    try:
        return REGISTRY.get(call.target)
    except TypeError:  # an unhashable callable
        return None
