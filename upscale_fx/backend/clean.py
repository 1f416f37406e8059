"""Dynamo's graph, cleaned: no assertions or guards, sizes read from tensors, the model's values as attributes."""

from __future__ import annotations

import builtins
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import HigherOrderOperator
from torch.fx.node import map_arg
from torch.nn import functional as F

from upscale_fx.backend.arguments import GRADIENT_MODES, Argument
from upscale_fx.compiled.calls import target_name
from upscale_fx.errors import ModeError, TraceError

#: Functions that check or log something and return nothing.
_CHECKS = {"_assert", "_assert_async", "_assert_scalar", "_assert_tensor_metadata", "_check", "_check_is_size",
           "_check_value", "_check_index", "_check_type", "_check_not_implemented", "sym_constrain_range",
           "sym_constrain_range_for_size", "_log_api_usage_once"}  # fmt: skip
#: Functions of symbolic numbers, and the same for Python numbers.
_ON_NUMBERS: dict[Any, Callable[..., Any]] = {
    torch.sym_max: builtins.max, torch.sym_min: builtins.min, torch.sym_int: builtins.int,
    torch.sym_float: builtins.float, torch.sym_not: operator.not_,
}  # fmt: skip
#: Functions that read sizes of a tensor, and the methods that do the same.
_SIZES = {"sym_size": "size", "sym_numel": "numel", "sym_stride": "stride"}
#: Norms with running statistics: name and position of the mean, and of the flag that updates it.
_NORMS = {F.batch_norm: ("running_mean", 1, "training", 5), F.instance_norm: ("running_mean", 1, "use_input_stats", 5),
          torch.batch_norm: ("running_mean", 3, "training", 5)}  # fmt: skip
#: Kernels of recurrent layers.
_RECURRENT = {getattr(torch, name) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")}


@dataclass(frozen=True)
class CleanGraph:
    """A graph whose placeholders are the arguments of the call, and whose attributes are the values of the model.

    Attributes:
        graph: the graph. Every node's ``meta`` has ``module`` and ``source``, and for tensors ``sizes``, as text.
            ``number`` marks a Python number that the model holds, ``symbolic`` one that is computed.
        given: the arguments, in the order of the placeholders.
        held: parameters, buffers and numbers.
        constants: tensors in Dynamo's graph itself, by attribute.
    """

    graph: fx.Graph
    given: tuple[Argument, ...]
    held: tuple[Argument, ...]
    constants: dict[str, Tensor]


def clean_graph(gm: fx.GraphModule, arguments: Sequence[Argument]) -> CleanGraph:
    """Rewrite Dynamo's graph.

    Raises:
        TraceError: something in it cannot be part of a traced graph.
        ModeError: a batch norm would update its statistics.
    """
    writer = _Writer(gm, arguments)
    for node in gm.graph.nodes:
        writer.write(node)
    for node in reversed(list(writer.graph.nodes)):  # numbers that were only checked
        if not node.users and node.meta.get("symbolic"):
            writer.graph.erase_node(node)
    held = tuple(argument for argument in arguments if argument.kind == "held")
    return CleanGraph(writer.graph, tuple(writer.given), held, writer.constants)


@dataclass
class _Writer:
    gm: fx.GraphModule
    arguments: Sequence[Argument]
    graph: fx.Graph = field(default_factory=fx.Graph)
    known: dict[fx.Node, Any] = field(default_factory=dict)
    counts: dict[str, fx.Node] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.several_models = len({argument.owner for argument in self.arguments if argument.owner}) > 1
        self.placeholders = [node for node in self.gm.graph.nodes if node.op == "placeholder"]
        axes = {size for a in self.arguments if a.kind == "given" and not a.integer for size in a.sizes}
        # An integer that Dynamo takes for the size of an axis is read from that axis.
        self.given = [a for a in self.arguments if a.kind == "given" and not (a.integer and a.sizes[0] in axes)]
        written = [self._written(self.graph.placeholder(a.name), sizes=tuple(map(str, a.sizes))) for a in self.given]
        for argument, node in zip(self.given, written, strict=True):
            self.known[self.placeholders[argument.place]] = node
            for axis, size in enumerate(argument.sizes):
                if isinstance(size, str) and size not in self.counts:
                    count = node if argument.integer else self.graph.call_method("size", (node, axis))
                    self.counts[size] = self._written(count)

    def write(self, node: fx.Node) -> None:
        """Rewrite one of Dynamo's nodes as a node, several nodes, a constant, or nothing."""
        if node.op == "placeholder":
            if node not in self.known:
                self.known[node] = self._input(node)
            return
        name = target_name(node.target).split(".")[0]
        if node.op == "call_function" and (name in _CHECKS or name in GRADIENT_MODES):
            return
        _check_traceable(node, name)
        args: Any = map_arg(node.args, self.known.__getitem__)
        kwargs: Any = map_arg(dict(node.kwargs), self.known.__getitem__)
        target: Any = node.target
        if node.op == "output":
            self.graph.output(args[0])
        elif target is torch.Size:
            self.known[node] = tuple(args[0])
        elif target is torch.sym_sum:
            terms = args[0] if len(args) == 1 and isinstance(args[0], tuple | list) else args
            self.known[node] = reduce(lambda a, b: self._call(node, "call_function", operator.add, (a, b)), terms)
        elif name in _SIZES:
            self.known[node] = self._call(node, "call_method", _SIZES[name], args)
        elif target == "item" and isinstance(args[0], fx.Node) and args[0].meta.get("number"):
            self.known[node] = args[0]
        elif node.op == "get_attr":
            self.known[node] = self._constant(node)
        else:
            self.known[node] = self._call(node, node.op, _ON_NUMBERS.get(target, target), args, kwargs)

    def _input(self, node: fx.Node) -> fx.Node | int | None:
        """A size, or a value that a model holds."""
        argument = self.arguments[self.placeholders.index(node)]
        if argument.kind in ("count", "given"):
            size = argument.sizes[0]
            if isinstance(size, int):  # Dynamo specialised it to this number
                return size
            if size not in self.counts and node.users:
                raise TraceError("the model reads the strides of an argument; pass contiguous tensors")
            return self.counts.get(size)
        attribute = self._written(self.graph.get_attr(argument.name), sizes=tuple(map(str, argument.sizes)))
        as_number = argument.number and all(user.target == "item" for user in node.users)
        attribute.meta["number"] = argument.integer or as_number
        return attribute

    def _constant(self, node: fx.Node) -> fx.Node:
        value: Any = self.gm
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if not isinstance(value, Tensor):
            raise TraceError(_refusal(node, f"a {type(value).__name__} as an attribute"))
        name = "_constant_" + str(node.target).replace(".", "_")
        self.constants[name] = value
        return self._written(self.graph.get_attr(name), sizes=tuple(map(str, value.shape)))

    def _call(self, node: fx.Node, op: str, target: Any, args: Any, kwargs: Any = None) -> fx.Node:
        call = self.graph.create_node(op, target, tuple(args), kwargs or {})
        value = node.meta.get("example_value")
        if isinstance(value, Tensor):
            call.meta["sizes"] = tuple(map(str, value.shape))
        symbolic = isinstance(value, torch.SymInt | torch.SymBool | torch.SymFloat | int | float)
        return self._written(call, module=self._module(node), source=source_of(node), symbolic=symbolic)

    def _written(self, node: fx.Node, **facts: Any) -> fx.Node:
        node.meta.update({"module": "", "source": "", **facts})
        return node

    def _module(self, node: fx.Node) -> str:
        """The path of the module that a node comes from."""
        stack = list(node.meta.get("nn_module_stack", {}).values())
        if not stack:
            return ""
        words = [quoted or word for quoted, word in re.findall(r"\['(.*?)'\]|([^.\[\]]+)", str(stack[-1][0]))]
        return ".".join(words[1:] if self.several_models else words[2:])


def _check_traceable(node: fx.Node, name: str) -> None:
    if node.op == "call_module" or isinstance(node.target, HigherOrderOperator):
        raise TraceError(_refusal(node, f"{node.target}, a subgraph that is opaque here"))
    if name in ("_enter_autocast", "_exit_autocast"):
        raise TraceError(_refusal(node, "torch.autocast within forward(), which its kernels do not support"))
    if node.op == "call_function" and node.target in _RECURRENT:
        raise TraceError(_refusal(node, f"torch.{name}, whose weights are one list without names"))
    if node.op == "call_function" and node.target in _NORMS:
        mean, place, flag, flag_place = _NORMS[node.target]
        updates = node.args[flag_place] if len(node.args) > flag_place else node.kwargs.get(flag, flag != "training")
        statistics = node.args[place] if len(node.args) > place else node.kwargs.get(mean)
        if updates is not False and statistics is not None:
            raise ModeError(
                f"backend='upscale' is for inference, but a norm at {source_of(node)} is in train() and would update "
                f"its statistics; call model.eval() first"
            )


def _refusal(node: fx.Node, what: str) -> str:
    return (
        f"backend='upscale' found {what} (at {source_of(node)}); prune the model itself instead, "
        f"upscale_fx.prune(model, amount)"
    )


def source_of(node: fx.Node) -> str:
    """File and line of one of Dynamo's nodes, or of the first node after it that has them."""
    while node.op != "output" and not node.meta.get("stack_trace"):
        node = node.next
    frames = re.findall(r'File "(.*?)", line (\d+)', node.meta.get("stack_trace") or "")
    frames = [frame for frame in frames if "/torch/" not in frame[0]] or frames
    return f"{frames[-1][0].rsplit('/', 1)[-1]}:{frames[-1][1]}" if frames else "unknown line"
