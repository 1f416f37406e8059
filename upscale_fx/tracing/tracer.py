"""The symbolic tracer: it runs a PyG model once, on two example graphs at the same time, and records an FX graph.

Calls of torch's modules, functions and methods are recorded. The tracer goes through PyG's ``propagate``, so a layer
becomes its gathers, messages and aggregations. In-place operations are recorded as pure operations.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import chain
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, fx, nn

from upscale_fx.compiled import functions
from upscale_fx.compiled.calls import describe_call, target_name
from upscale_fx.compiled.example_values import Pair
from upscale_fx.compiled.inputs import LARGE, SMALL, ModelInputs
from upscale_fx.compiled.objects.arguments import implied
from upscale_fx.compiled.objects.results import RESULTS, originals, unpacked
from upscale_fx.compiled.opaque import OPAQUE_FUNCTIONS, OPAQUE_MODULES
from upscale_fx.compiled.progress import advance
from upscale_fx.compiled.selections import with_unequal_counts
from upscale_fx.compiled.source_lines import source_line
from upscale_fx.tracing.arrays.calls import numpy_call, without_numpy
from upscale_fx.tracing.constants import is_constant, values_equal
from upscale_fx.tracing.contexts import set_requires_grad
from upscale_fx.tracing.in_place import InPlaceTracer
from upscale_fx.tracing.leaves import (
    ALWAYS_RECORDED,
    ARANGE,
    BUILT_IN,
    BUILT_IN_SPACES,
    CONSTRUCTORS,
    FUNCTIONS,
    MODULES,
    calls_go_to,
    initial_states_apart,
    patched,
)
from upscale_fx.tracing.lower import LOWERED, is_largest_index, lowered_module
from upscale_fx.tracing.matrices.calls import matrix_call
from upscale_fx.tracing.matrices.proxy import MatrixProxy, matrix_of_parts
from upscale_fx.tracing.modules.gradients import TAKE_GRADIENTS, gradients_text
from upscale_fx.tracing.modules.hooks import call_with_hooks, compute
from upscale_fx.tracing.modules.watched_modes import WatchedModes
from upscale_fx.tracing.mutation import ZEROED, pure_form, selected_rows, shares_storage
from upscale_fx.tracing.objects.needed import same_attribute
from upscale_fx.tracing.proxy import CannotTrace, ExampleProxy, any_proxy, example_side, is_proxy
from upscale_fx.tracing.quirks import sizes_of_constants, traced_builtins, tracing_quirks
from upscale_fx.tracing.rewrites import rewritten
from upscale_fx.tracing.wrapped import wrappers_opened


class GraphTracer(InPlaceTracer):
    """Traces one module in its current mode. ``place`` names the call that is being traced, for errors."""

    def __init__(self, replace_builtins: bool = True, observed: Collection[str] = ()) -> None:
        super().__init__(observed)
        self.replace_builtins = replace_builtins  # replace int, len, min and max in the model's own Python modules too
        self.path: list[str] = []
        self.failed_in = ""  # the innermost module an exception came through
        self.place = ""
        self._paused = False  # an example value is being computed: record nothing
        self._attributes: dict[str, ExampleProxy] = {}
        self.modes = WatchedModes()

    # The run -----------------------------------------------------------------------------------------------------

    def trace(self, root: nn.Module, inputs: ModelInputs) -> fx.Graph:  # type: ignore[override]
        """Record ``root.forward`` as a graph; raises CannotTrace, or an error of the model itself."""
        self.root, self._thread, self._inputs = root, get_ident(), inputs
        self.graph = fx.Graph(tracer_cls=type(self))
        self.tensor_attrs = {}
        stored = chain(root.named_parameters(remove_duplicate=False), root.named_buffers(remove_duplicate=False))
        self._names = {id(value): name for name, value in reversed(list(stored))}  # the first name of each
        self._paths = {id(module): path for path, module in root.named_modules()}
        arguments = self._placeholders(inputs)
        recorded = (*BUILT_IN, *FUNCTIONS, *CONSTRUCTORS, *TAKE_GRADIENTS, *OPAQUE_FUNCTIONS)
        spaces = {cls.__module__ for module in root.modules() for cls in type(module).__mro__} - BUILT_IN_SPACES
        spaces |= {function.__module__ for function in OPAQUE_FUNCTIONS}
        extended = spaces if self.replace_builtins else set()
        with (
            calls_go_to(self._call_or_record),
            patched(recorded, traced_builtins(), spaces, extended),
            tracing_quirks(),
            wrappers_opened(),
            sizes_of_constants(self.create_proxy),
            torch.no_grad(),
            self.modes.watched(root),
            self.gradients.watched(lambda: self._paused),
            self._patched_modules(),
        ):
            args, kwargs = inputs.bind(arguments)
            given = originals({**dict(zip(inputs.positional, args, strict=False)), **kwargs}, inputs.objects)
            result = root(*args, **kwargs)
        for name, buffer in root.named_buffers():
            if is_proxy(buffer) and name not in self.observed:
                raise CannotTrace(f"the buffer '{name}' is replaced during forward()")
        result, template = unpacked(result, given, same_attribute)
        self.create_node("output", "output", (self.create_arg(result),), {}).meta[RESULTS] = template
        return self.graph

    def _placeholders(self, inputs: ModelInputs) -> dict[str, Any]:
        small, large = inputs.example(SMALL), inputs.example(LARGE)
        nodes: dict[str, fx.Node] = {}
        optional, left_out = False, implied(inputs.objects)
        for name in inputs.order:
            optional = optional or name not in inputs.arguments or name in left_out
            spec = inputs.arguments.get(name)
            constant = spec if isinstance(spec, bool | int | float | str) else None
            optional = optional or constant is not None
            nodes[name] = self.graph.placeholder(name, **({"default_value": constant} if optional else {}))
        return {name: self._wrap(nodes[name], (small[name], large[name])) for name in inputs.arguments}

    def matrix(self, layout: str, parts: Mapping[str, Any]) -> MatrixProxy:
        """Return what stands for a sparse matrix, from its edges, weights and sizes."""
        return matrix_of_parts(self, layout, parts)

    def _call_or_record(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function, or record its call where proxies are among the arguments."""
        numbers = self._inputs.chosen and function is ARANGE  # of selected rows
        always = (numbers or function in ALWAYS_RECORDED) and get_ident() == self._thread  # others may run models
        if self._paused or not (always or any_proxy((args, kwargs))):
            return function(*args, **kwargs)
        return self.create_proxy("call_function", function, args, kwargs)

    def _patched_modules(self) -> Any:
        original_call, original_getattr = nn.Module.__call__, nn.Module.__getattr__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = None if self._paused else self._paths.get(id(module))
            if path is None:
                return original_call(module, *args, **kwargs)
            if path and isinstance(module, (*MODULES, *OPAQUE_MODULES)):

                def leaf(*args: Any, **kwargs: Any) -> Any:
                    return self.create_proxy("call_module", path, *initial_states_apart(module, args, kwargs))

                return call_with_hooks(module, leaf, original_call, args, kwargs)
            lowered = lowered_module(module)
            self.path.append(path)
            try:
                own = None if lowered is None else partial(lowered, module)
                return call_with_hooks(module, own, original_call, args, kwargs)
            except Exception:
                self.failed_in = self.failed_in or path
                raise
            finally:
                self.path.pop()

        def get_attribute(module: nn.Module, name: str) -> Any:
            if name == "training" and (mode := self.modes.read(module, self._paused)) is not None:
                return mode
            value = original_getattr(module, name)
            return self._attribute(value) if isinstance(value, Tensor) and not self._paused else value

        patcher = fx._symbolic_trace._Patcher()
        patcher.patch_method(nn.Module, "__getattr__", get_attribute, deduplicate=False)
        patcher.patch_method(nn.Module, "__call__", call, deduplicate=False)
        return patcher

    def _attribute(self, value: Tensor) -> Any:
        name = self._names.get(id(value))
        if name is None or is_proxy(value):
            return value
        if name not in self._attributes:
            node = self.create_node("get_attr", name, (), {})
            found = ExampleProxy(node, self, (value.detach(), value.detach()))
            found.observed = name in self.observed
            if name in self._inputs.tables:
                found = self.create_proxy("call_function", functions.rows_of, (found,), {})
            self._attributes[name] = found
        return self._attributes[name]

    # Recording ---------------------------------------------------------------------------------------------------

    def create_arg(self, a: Any) -> Any:
        """Turn an argument into one that a node may hold; proxies come first, because they look like tensors."""
        if is_proxy(a):
            return self.gradients.read(a, self.create_node)
        if isinstance(a, Tensor) and id(a) in self._names:
            return self._attribute(a).node
        if isinstance(a, type) and a in (float, int, bool):  # as a dtype
            return {float: torch.float64, int: torch.int64, bool: torch.bool}[a]
        if isinstance(a, tuple) and type(a) is not tuple and not hasattr(a, "_fields"):
            return tuple(self.create_arg(item) for item in a)
        if isinstance(a, dict):
            return {key: self.create_arg(item) for key, item in a.items()}
        try:
            return super().create_arg(without_numpy(a))
        except NameError:
            raise CannotTrace(
                "a parameter is read that no module of the model holds: register layers (nn.ModuleList, not a list), "
                "and do not replace forward() by a function that calls another copy of the model"
            ) from None

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, *_: Any, **__: Any
    ) -> Any:
        """Record one operation, unless its result is a constant of the model."""
        if target == "backward" or target in TAKE_GRADIENTS:
            raise CannotTrace(gradients_text(target))
        result = numpy_call(self, kind, target, args, kwargs)
        if result is not NotImplemented:
            return result
        result = matrix_call(self, target, args, kwargs)
        if result is not NotImplemented:
            return result
        if kind == "call_function" and target in LOWERED:
            lowered = LOWERED[target](*args, **kwargs)
            if lowered is not NotImplemented:
                return lowered
        if kind == "call_method" and target == "requires_grad_":
            return set_requires_grad(args[0], *args[1:], **kwargs) if args[1:] or kwargs else args[0]
        result = rewritten(target, args, kwargs)
        if result is not NotImplemented:
            return self.assign(args[0], result) if target_name(target).endswith("_") else result
        if is_proxy(kwargs.get("out")):
            return self.assign(kwargs["out"], self.create_proxy(kind, target, args, {**kwargs, "out": None}))
        if is_largest_index(target, args, kwargs):
            kind, target = "call_function", functions.largest_index
        if target is operator.getitem:
            args = (args[0], selected_rows(args[1]))
        target = ZEROED.get(target, target)
        kind, target, args, kwargs, changed = pure_form(kind, target, args, kwargs)
        pair = self._evaluate(kind, target, args, kwargs)
        if values_equal(*pair) and is_constant(target, (*args, *kwargs.values()), pair[0]):
            return pair[0]
        pair = pair if self._inputs.chosen else with_unequal_counts(target, pair)
        with self.gradients.reading(target, pair):
            arguments = self.create_arg(tuple(args)), self.create_arg(dict(kwargs))
        node = self.create_node(kind, target, *arguments, name)
        result = self._wrap(node, pair)
        if target is operator.getitem and is_proxy(result) and shares_storage(args[0].pair[0], pair[0]):
            result.view_of = (args[0], args[1])
        return self.assign(args[0], result) if changed else result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Record a node, with its module path and source line."""
        node = super().create_node(*args, **kwargs)
        node.meta["module"] = self.path[-1] if self.path else ""
        node.meta["source"] = source_line()
        self.modes.note_reads(node)
        advance()
        return node

    def _evaluate(self, kind: str, target: Any, args: Any, kwargs: Any) -> Pair:
        self._paused = True
        self.place = describe_call(kind, target)
        try:
            results = []
            for side in (0, 1):
                a, k = example_side(tuple(args), side), example_side(dict(kwargs), side)
                results.append(compute(self.root, self.modes.in_eval, kind, target, a, k))
            return results[0], results[1]
        finally:
            self._paused = False

    def _wrap(self, node: fx.Node, pair: Pair) -> Any:
        """Return a proxy for a result; containers become containers of proxies, None and constants stay themselves."""
        first, second = pair
        if first is None and second is None:
            return None
        if isinstance(first, tuple | list) and len(first) == len(second):
            items = [self._item(node, i, (first[i], second[i])) for i in range(len(first))]
            if isinstance(first, list) or type(first) is tuple:
                return type(first)(items)
            return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
        if isinstance(first, tuple | list):  # no relation of channels describes an unknown number of values
            raise CannotTrace("a tensor is taken apart along its rows, into as many parts as the graph has")
        if isinstance(first, dict) and first.keys() == second.keys():
            return {key: self._item(node, key, (first[key], second[key])) for key in first}
        if not isinstance(first, Tensor) and node.op == "placeholder" and values_equal(first, second):
            return first
        proxy = ExampleProxy(node, self, pair)
        proxy.frozen = not self.gradients.enabled
        if isinstance(first, Tensor):
            self._live.append(weakref.ref(proxy))
        return proxy

    def _item(self, node: fx.Node, key: Any, pair: Pair) -> Any:
        if pair[0] is None and pair[1] is None:
            return None
        item = self.create_node("call_function", operator.getitem, (node, key), {})
        return self._wrap(item, pair)

    def record_dtype(self, proxy: ExampleProxy) -> Any:
        """Return a floating dtype as a node of the graph, so that it follows ``.to(dtype)``; others as constants."""
        dtype = proxy.pair[0].dtype
        if not dtype.is_floating_point:
            return dtype
        node = self.create_node("call_function", getattr, (proxy.node, "dtype"), {})
        return ExampleProxy(node, self, (dtype, dtype))
