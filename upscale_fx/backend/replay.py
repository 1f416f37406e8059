"""A module that runs a cleaned graph over copies of the parameters, and that is traced like any other model."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from upscale_fx.backend.arguments import Argument
from upscale_fx.backend.clean import CleanGraph
from upscale_fx.backend.kernels import KERNELS
from upscale_fx.backend.raising import raise_leaves
from upscale_fx.compiled.calls import target_name
from upscale_fx.compiled.comparison import largest_difference
from upscale_fx.compiled.inputs import OTHER, SMALL, ModelInputs
from upscale_fx.compiled.undisturbed import undisturbed
from upscale_fx.errors import TraceError
from upscale_fx.tracing.check_trace import run_example
from upscale_fx.tracing.proxy import CannotTrace, any_proxy, is_proxy

#: Operators that change their first operand.
_IN_PLACE = {getattr(operator, f"i{name}") for name in ("add", "sub", "mul", "truediv", "pow", "matmul", "and", "or")}
#: Modules of the functions of Python numbers.
_ON_NUMBERS = ("_operator", "math", "builtins")


class CannotReplayError(Exception):
    """A node of the captured graph cannot be run or traced; says why and where it comes from."""


class CapturedModel(nn.Module):
    """A model made of the graph that Dynamo captured.

    Called with tensors, it runs the graph as Dynamo captured it; when traced, it runs the graph with PyG's functions
    put back. Every trace ends with a comparison of trace and module, which so also checks raising.
    """

    def __init__(self, cleaned: CleanGraph, values: Mapping[str, Any]) -> None:
        super().__init__()
        # These names must not clash with those of the model's values, which are attributes of this module too.
        self._captured_graph = cleaned.graph
        self._raised_graph = _raised(cleaned.graph)
        self._captured_numbers = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
        taken: dict[int, Tensor] = {}  # a parameter with two names stays one
        for name, value in {**values, **cleaned.constants}.items():
            if isinstance(value, Tensor):
                if id(value) not in taken:
                    copied = value.detach().clone()
                    taken[id(value)] = nn.Parameter(copied, False) if isinstance(value, nn.Parameter) else copied
                self._hold(name, taken[id(value)])

    def _hold(self, name: str, value: Tensor) -> None:
        """Register a parameter or buffer under its path in the model."""
        *path, last = name.split(".")
        owner: nn.Module = self
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        if isinstance(value, nn.Parameter):
            owner.register_parameter(last, value)
        else:
            owner.register_buffer(last, value)

    def forward(self, **arguments: Any) -> Any:
        """Run the graph on the arguments of the call, passed by name.

        Raises:
            CannotReplayError: a node fails.
        """
        tracer = next((value.tracer for value in arguments.values() if is_proxy(value)), None)
        graph = self._captured_graph if tracer is None else self._raised_graph
        values: dict[fx.Node, Any] = {}
        *nodes, output = graph.nodes
        for node in nodes:
            if node.op == "placeholder":
                values[node] = arguments[str(node.target)]
                continue
            last = None if tracer is None else _last(tracer.graph)
            try:
                values[node] = self._run(node, values, tracer)
            except Exception as reason:
                kind = "" if isinstance(reason, CannotTrace) else f"{type(reason).__name__}: "
                raise CannotReplayError(f"{kind}{reason} (at {node.meta['source']})") from reason
            if tracer is not None:
                _annotate(tracer.graph, last, node)
        return map_arg(output.args[0], values.__getitem__)

    def _run(self, node: fx.Node, values: Mapping[fx.Node, Any], tracer: Any) -> Any:
        target: Any = node.target
        if node.op == "get_attr":
            return self._captured_numbers[target] if node.meta.get("number") else self._held(target)
        args: Any = map_arg(node.args, values.__getitem__)
        kwargs: Any = map_arg(dict(node.kwargs), values.__getitem__)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        if target is operator.setitem:
            args[0][args[1]] = args[2]
            return None
        element = target is operator.getitem and not is_proxy(args[0])  # of a tuple of proxies
        if tracer is None or element or target in _IN_PLACE or target is getattr:
            return target(*args, **kwargs)
        if target in KERNELS:
            return KERNELS[target](*args, **kwargs)
        if any_proxy((args, kwargs)) or "sizes" in node.meta:
            return tracer.create_proxy("call_function", target, args, kwargs)
        if getattr(target, "__module__", "") not in _ON_NUMBERS:
            raise CannotTrace(f"{target_name(target)} has an effect that no graph of tensors can hold")
        return target(*args, **kwargs)

    def _held(self, name: str) -> Any:
        owner: Any = self
        for part in name.split("."):
            owner = getattr(owner, part)
        return owner

    def __deepcopy__(self, memo: dict[int, Any]) -> CapturedModel:
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        graphs = ("_captured_graph", "_raised_graph")  # never changed, so shared
        new.__dict__.update({k: v if k in graphs else copy.deepcopy(v, memo) for k, v in self.__dict__.items()})
        return new


def _raised(graph: fx.Graph) -> fx.Graph:
    """A copy of the graph with PyG's functions put back."""
    copied = fx.Graph()
    copied.output(copied.graph_copy(graph, {}))
    for old, new in zip(graph.nodes, copied.nodes, strict=True):
        new.meta = dict(old.meta)
    raise_leaves(copied)
    return copied


def _last(graph: fx.Graph) -> fx.Node | None:
    return next(iter(reversed(graph.nodes)), None)


def _annotate(graph: fx.Graph, last: fx.Node | None, origin: fx.Node) -> None:
    """Set module and source line of the nodes after ``last``."""
    for node in reversed(graph.nodes):
        if node is last:
            return
        node.meta.update(module=origin.meta["module"], source=origin.meta["source"])


def check_capture(
    gm: fx.GraphModule, arguments: Sequence[Argument], model: CapturedModel, inputs: ModelInputs, values: Sequence[Any]
) -> None:
    """Compare the module with Dynamo's own graph on two example graphs.

    Raises:
        TraceError: Dynamo's graph runs on one graph only, or the outputs differ.
    """
    for rows in (SMALL, OTHER):
        example_arguments = inputs.example(rows)
        sizes: dict[int | str, Any] = {size: size for a in arguments for size in a.sizes if isinstance(size, int)}
        for argument in arguments:
            if argument.name in example_arguments:
                example = example_arguments[argument.name]
                sizes.update(
                    zip(argument.sizes, example.shape if isinstance(example, Tensor) else (example,), strict=True)
                )
        called = [
            example_arguments[a.name]
            if a.name in example_arguments
            else sizes.get(a.sizes[0], values[a.place])
            if a.kind != "held"
            else values[a.place]
            for a in arguments
        ]
        try:
            with undisturbed(model), torch.no_grad():
                expected = fx.Interpreter(gm).run(*called)
        except Exception as error:
            raise TraceError(
                f"the graph that torch.compile captured runs on no other graph than that of the call "
                f"({type(error).__name__}: {str(error).splitlines()[0]}): a layer caches its graph (cached=True), a "
                f"parameter has one entry per row, or an argument is not what its name and values suggest"
            ) from error
        gap = largest_difference(expected, run_example(model, inputs, rows))
        if not gap <= 1e-6:
            raise TraceError(
                f"backend='upscale' did not understand the graph that torch.compile captured: outputs differ by "
                f"{gap:.2g}. Please report the model; torch.compile(upscale_fx.prune(model, amount)) traces it itself"
            )
