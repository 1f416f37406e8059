"""The table of rules and how an FX node finds its own."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from upscale_fx import ops
from upscale_fx.channels import Axes, Flow, Positions, axes_of
from upscale_fx.errors import InputError, UpscaleError
from upscale_fx.relations import Barrier, Movement, Relation, Source, Structure

Pair = tuple[Any, Any]
Rule = Callable[["Operation"], "Relation | None"]

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


#: Functions and module types of users that have a rule, so that traces do not look into them.
OPAQUE_FUNCTIONS: list[Callable[..., Any]] = []
OPAQUE_MODULES: list[type] = []

#: What tracing knows already, as a leaf or by what it is made of.
_TRACED = ("torch.", "torch_geometric.", "upscale_fx.")


def _names_in_graphs(operation: Any) -> list[Any]:
    """What calls of an operation are recorded as: a custom operator as its overloads."""
    own = getattr(operation, "_opoverload", operation)  # a torch.library.custom_op
    if isinstance(own, torch._ops.OpOverloadPacket):
        return [own, *(getattr(own, name) for name in own._overload_names)]
    return [own]


@dataclass(frozen=True)
class Operation:
    """One call in the graph, as a rule sees it.

    Attributes:
        node: the node whose result is described (for a tuple-valued call, the getitem that takes an element).
        call: the node that makes the call.
        item: which element of a tuple-valued call is meant, else None.
        values: example values of every node.
        module: the module called, for call_module nodes.
    """

    node: fx.Node
    call: fx.Node
    item: Any
    values: Mapping[fx.Node, Pair]
    module: nn.Module | None = None

    @property
    def axes(self) -> Axes:
        """Axes of the result."""
        found = axes_of(self.values[self.node])
        assert found is not None
        return found

    @property
    def name(self) -> str:
        """Bare name of the function, method or module."""
        target = self.call.target
        if self.module is not None:
            return type(self.module).__name__
        return target if isinstance(target, str) else getattr(target, "__name__", str(target))

    def argument(self, place: int, *names: str, default: Any = None) -> Any:
        """A positional or keyword argument."""
        if len(self.call.args) > place:
            return self.call.args[place]
        return next((self.call.kwargs[name] for name in names if name in self.call.kwargs), default)

    def axes_of(self, node: Any) -> Axes | None:
        """Axes of an argument; None unless it is a tensor value."""
        return axes_of(self.values[node]) if isinstance(node, fx.Node) else None

    def constant(self, argument: Any) -> Any:
        """An argument as a Python value on the small example."""
        return fx.node.map_arg(argument, lambda node: self.values[node][0])

    @property
    def tensors(self) -> list[fx.Node]:
        """All tensor arguments, nested ones included, each once."""
        return [node for node in self.call.all_input_nodes if self.axes_of(node) is not None]

    def aligned(self, source: fx.Node, axes: tuple[int | None, ...] | None = None) -> Flow | None:
        """The flow of an operand that broadcasts to the result, from the right unless ``axes`` says otherwise."""
        given, result = self.axes_of(source), self.axes
        if given is None:
            return None
        if axes is None:
            lead = len(result.shape) - len(given.shape)
            if lead < 0:
                return None
            axes = tuple(range(lead, len(result.shape)))
        shape = [1] * len(result.shape)
        for own, target in enumerate(axes):
            if target is not None:
                shape[target] = given.shape[own]
        try:
            index = np.broadcast_to(given.everything().reshape(shape), result.shape).reshape(-1)
        except ValueError:
            return None
        along = tuple(None if given.shape[own] == 1 else target for own, target in enumerate(axes))
        return Flow(source, np.ascontiguousarray(index), along)

    def run(self, replaced: Mapping[fx.Node, Tensor], side: int = 0) -> Any:
        """Run the call itself on one of the two examples with some arguments replaced."""
        pick = lambda node: replaced[node] if node in replaced else self.values[node][side]  # noqa: E731
        args, kwargs = fx.node.map_arg(self.call.args, pick), fx.node.map_arg(self.call.kwargs, pick)
        with torch.no_grad():
            if self.module is not None:
                result = self.module(*args, **kwargs)
            elif self.call.op == "call_method":
                result = getattr(args[0], str(self.call.target))(*args[1:], **kwargs)
            else:
                result = self.call.target(*args, **kwargs)  # type: ignore[operator]
        return result if self.item is None else result[self.item]

    def follow(self, sources: list[fx.Node]) -> list[Positions] | None:
        """For each source, which of its positions every result position holds (-1: none): the op runs on labels.

        None if a result position does not hold one and the same label in all rows.
        """
        if any(self._chooses_by_value(node) for node in self.tensors if node not in sources):
            return None
        found = self._labels(sources, 0)
        other = self._labels(sources, 1)
        if found is None or other is None or not np.array_equal(found, other):
            return None
        indices, first = [], 1
        for source in sources:
            count = self.axes_of(source).count  # type: ignore[union-attr]
            mine = (found >= first) & (found < first + count)
            indices.append(np.where(mine, found - first, -1))
            first += count
        if not np.all(np.sum([i >= 0 for i in indices], axis=0) == 1):
            return None
        return indices

    def _chooses_by_value(self, node: fx.Node) -> bool:
        """Whether an index tensor could choose channels by its values: it has no rows, and is not a constant."""
        axes = self.axes_of(node)
        return node.op != "get_attr" and axes is not None and None not in axes.sizes

    def _labels(self, sources: list[fx.Node], side: int) -> Positions | None:
        """The label each result position holds, sources numbered through from 1; None if rows disagree."""
        labels, start = {}, 1
        for source in sources:
            given = self.axes_of(source)
            assert given is not None
            label = torch.arange(start, start + given.count).reshape(given.shape)
            labels[source] = label.expand(self.values[source][side].shape).contiguous()
            start += given.count
        try:
            result = self.run(labels, side)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None
        wide = self.values[self.node][side]
        if not isinstance(result, Tensor) or result.shape != wide.shape or not result.numel():
            return None
        held = result
        for axis, size in enumerate(self.axes.sizes):
            if size is None:
                held = held.narrow(axis, 0, 1)
        return held.reshape(-1).numpy().astype(np.int64) if torch.equal(held.expand(result.shape), result) else None


def relation_of(node: fx.Node, values: Mapping[fx.Node, Pair], root: nn.Module) -> Relation:
    """The relation of a node, by the registry; a barrier with a reason where no rule fits."""
    if node.op in ("placeholder", "get_attr"):
        return Source()
    if axes_of(values[node]) is None:
        # Not one tensor: a size, a flag, or a tuple whose elements are described at their getitem.
        return Structure()
    call, path = call_of(node, values)
    if call.op == "placeholder":
        return Source()
    operation = operation_of(node, values, root)
    if call.target is ops.entry:
        return Movement((Flow(call.args[0], np.arange(operation.axes.count)),), "entry")  # type: ignore[arg-type]
    if call.op == "call_method" and str(call.target).startswith("new_"):
        return Source(zero=call.target == "new_zeros")  # only dtype and device are read
    if call.target is torch.zeros:
        return Source(zero=True)
    exact = values[node][0].is_floating_point() or values[node][0].is_complex()
    if not exact and call.target is not ops.knn_by_features:
        return Barrier(tuple(operation.tensors), "integers or flags: structure")
    deep = len(path) > 1 and not isinstance(operation.module, nn.RNNBase)
    rule = _find(call, operation.module) if not deep else None
    if rule is None:
        return Barrier(tuple(operation.tensors), _MIXING.get(operation.name, _UNKNOWN))
    found = _applied(rule, operation)
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


def _find(call: fx.Node, module: nn.Module | None) -> Rule | None:
    if module is not None:
        return next((REGISTRY[cls] for cls in type(module).__mro__ if cls in REGISTRY), None)
    try:
        return REGISTRY.get(call.target)
    except TypeError:  # an unhashable callable
        return None
