"""Proxies that hold their values on two example graphs, from which they know shapes, dtypes and branches.

A result that is equal on both graphs is a constant of the model and becomes a constant. A result that differs depends
on the size of the graph and stays in the FX graph; a branch on it raises CannotTrace.
"""

from __future__ import annotations

import math
import operator
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from upscale_fx.compiled import functions
from upscale_fx.compiled.example_values import Pair
from upscale_fx.compiled.source_lines import source_line
from upscale_fx.tracing.assertions import passes_assertion
from upscale_fx.tracing.modules.remedies import (
    BRANCH_ON_SIZE,
    BRANCH_ON_VALUES,
    CONTAINED,
    FIXED_INTEGER,
    VALUES_IN_PYTHON,
)

#: Attributes of a tensor that need no computation.
_FACTS = frozenset({
    "device", "layout", "ndim", "is_cuda", "is_sparse", "is_sparse_csr", "is_quantized", "is_nested", "is_meta",
    "is_mkldnn", "names", "is_leaf", "is_cpu", "is_mps", "is_xla", "is_xpu", "itemsize",
    "_is_param", "grad", "is_complex",
})  # fmt: skip
#: Functions of NumPy that may be called on row counts.
NUMBERS = ("sqrt", "exp", "log", "log2", "log10", "log1p", "cbrt", "tanh")
#: Attributes that compute a tensor, and the method that does the same.
_PROPERTIES = {"T": "t"}
#: Calls that compare values and return a bool.
_COMPARE_VALUES = (torch.equal, torch.allclose, "equal", "allclose", torch.is_nonzero, "is_nonzero")


class CannotTrace(Exception):
    """Tracing cannot go on; the message says why and, after a semicolon, what to do instead.

    Not a RuntimeError: PyG catches those around gathers and scatters.
    """


class ProxyTracer(fx.Tracer, ABC):
    """The interface of a tracer that its proxies call, besides ``create_proxy``."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped_assertions: list[str] = []  # the lines of assertions on values, which the graph does not repeat

    @abstractmethod
    def record_dtype(self, proxy: ExampleProxy) -> Any:
        """Return the dtype of a proxy; a floating dtype as a node of the graph."""

    @abstractmethod
    def assign(self, proxy: Any, result: Any) -> Any:
        """Make ``proxy`` stand for ``result`` from now on, as an in-place operation does."""

    @abstractmethod
    def assign_item(self, proxy: ExampleProxy, key: Any, value: Any) -> None:
        """Record ``proxy[key] = value`` as a pure operation."""


class ExampleProxy(fx.Proxy):
    """A proxy with its values on the two example graphs; ``isinstance`` sees the class of these values."""

    __array_priority__ = torch.Tensor.__array_priority__  # NumPy leaves operators to it, as it does to tensors

    def __init__(self, node: fx.Node, tracer: ProxyTracer, pair: Pair) -> None:
        super().__init__(node, tracer)
        self.tracer: ProxyTracer = tracer
        self.pair = pair
        self.view_of: tuple[Any, Any] | None = None  # (tensor, key) if this is the view tensor[key]
        self.frozen = False  # computed where forward() had switched gradients off
        self.observed = False  # a buffer that calls change and no output depends on

    @property
    def __class__(self) -> type:
        return type(self.pair[0])

    @__class__.setter
    def __class__(self, value: type) -> None:  # fx never sets it; object requires the setter to exist
        raise TypeError("the class of a proxy follows its value")

    @property
    def data(self) -> Any:
        """The values without gradients; those of a buffer that no output depends on can be set."""
        return self._method("detach")()

    @data.setter
    def data(self, value: Any) -> None:
        if not self.observed:  # gradients would still flow to what the tensor was computed from
            raise CannotTrace("'.data' of a tensor is replaced; assign the tensor itself, or x[...] = value")
        if not is_proxy(value):
            raise CannotTrace("'.data' of a tensor is set to one that is not computed from the inputs")
        self.tracer.assign(self, value.clone())

    def __getattr__(self, name: str) -> Any:
        value = self.pair[0]
        if name in _FACTS:
            return getattr(value, name)
        if not isinstance(value, Tensor):
            if name in NUMBERS and isinstance(value, int | float):  # NumPy calls them: np.sqrt(x.size(0))
                return lambda: self.tracer.create_proxy("call_function", functions.numpy_number, (name, self), {})
            attribute = getattr(value, name)  # AttributeError, as the value itself would raise
            return self._method(name) if callable(attribute) else attribute
        if name == "shape":
            return self.size()
        if name == "dtype":
            return self.tracer.record_dtype(self)
        if name in _PROPERTIES:
            return self._method(_PROPERTIES[name])()
        if name in ("mT", "mH", "H"):
            transposed = self.transpose(-2, -1)
            return transposed if name == "mT" else transposed.conj()
        if name in ("real", "imag"):
            return self.tracer.create_proxy("call_function", getattr(torch, name), (self,), {})
        attribute = getattr(value, name)  # AttributeError, as the tensor itself would raise
        if not callable(attribute):
            raise CannotTrace(f"attribute '.{name}' of a tensor is read, which depends on its values")
        return self._method(name)

    @property
    def requires_grad(self) -> bool:
        """That of the example."""
        return bool(self.pair[0].requires_grad)

    @requires_grad.setter
    def requires_grad(self, mode: bool) -> None:
        self.requires_grad_(mode)

    def _method(self, name: str) -> Callable[..., Any]:
        if name == "item" and isinstance(self.pair[0], Tensor) and self.pair[0].dtype == torch.long:
            return lambda: self.tracer.create_proxy("call_function", int, (self,), {})
        if name in ("item", "tolist", "numpy", "cpu_numpy", "__array__"):
            if self._known() is not None:
                known: Callable[..., Any] = getattr(self.pair[0], name)
                return known

            def refuse(*_: Any, **__: Any) -> Any:
                raise CannotTrace(f"'.{name}()' turns tensor values into Python values; {VALUES_IN_PYTHON}")

            return refuse

        def call(*args: Any, **kwargs: Any) -> Any:
            return self.tracer.create_proxy("call_method", name, (self, *args), kwargs)

        return call

    def size(self, dim: int | None = None) -> Any:
        """Return static sizes as ints and row sizes as proxies."""
        if dim is not None:
            return self.tracer.create_proxy("call_method", "size", (self, dim), {})
        return SizeTuple(self.size(axis) for axis in range(self.pair[0].dim()))

    def _known(self) -> Any:
        """Return the value of a tensor that forward() makes from constants, such as ``torch.zeros(1)``; else None."""
        made = self.node.op == "call_function" and not self.node.all_input_nodes
        return self.pair[0] if made and isinstance(self.pair[0], Tensor) and torch.equal(*self.pair) else None

    def __len__(self) -> int:
        length = len(self.pair[0])
        if length != len(self.pair[1]):
            raise CannotTrace("len() of a row axis was taken, which must stay symbolic; use x.size(0)")
        return length

    def __iter__(self) -> Iterator[Any]:
        return iter([operator.getitem(self, i) for i in range(len(self))])

    def __bool__(self) -> bool:
        if self._known() is not None:
            return bool(self.pair[0])
        passes = passes_assertion(sys._getframe(1))
        if passes is not None:  # the graph does not repeat the assertion
            self.tracer.skipped_assertions.append(source_line())
            return passes
        if isinstance(self.pair[0], Tensor):
            raise CannotTrace(f"a branch depends on tensor values; {BRANCH_ON_VALUES}")
        if type(self.pair[0]) is int and all(self.pair):
            return True  # like a comparison with 0, which the check of the trace covers
        if self.node.target in _COMPARE_VALUES:
            raise CannotTrace(f"a branch depends on tensor values; {BRANCH_ON_VALUES}")
        raise CannotTrace(f"a branch depends on the number of nodes, edges or graphs; {BRANCH_ON_SIZE}")

    def __contains__(self, item: Any) -> bool:
        raise CannotTrace(f"'in' looks at tensor values; {CONTAINED}")

    def __index__(self) -> int:
        if self._known() is not None:
            return int(self.pair[0])
        raise CannotTrace(_python_number(self.pair))

    def __int__(self) -> int:
        if self._known() is not None:
            return int(self.pair[0])
        raise CannotTrace(_python_number(self.pair))

    def __floor__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.floor, (self,), {})

    def __ceil__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.ceil, (self,), {})

    def __float__(self) -> float:
        if self._known() is not None:
            return float(self.pair[0])
        raise CannotTrace(_python_number(self.pair))

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.assign_item(self, key, value)


class SizeTuple(tuple[Any, ...]):
    """A ``torch.Size`` whose row sizes are proxies."""

    def numel(self) -> Any:
        """Product of all sizes."""
        total: Any = 1
        for size in self:
            total = total * size
        return total


def _python_number(pair: Pair) -> str:
    if isinstance(pair[0], Tensor):
        return f"a tensor's value is turned into a Python number; {VALUES_IN_PYTHON}"
    return (
        "a row count (nodes, edges or graphs), or a number read off a tensor, is used where Python needs a "
        f"fixed integer, as in range() or indexing; {FIXED_INTEGER}"
    )


def _in_place_operator(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(self: ExampleProxy, other: Any) -> Any:
        if not isinstance(self.pair[0], Tensor) or isinstance(other, np.ndarray):  # x *= array makes a new tensor
            return function(self, other)
        return self.tracer.assign(self, function(self, other))

    return apply


# ``x += y`` changes x for all its users; therefore the proxy itself takes the new value.
for _name in ("add", "sub", "mul", "truediv", "pow", "matmul", "and_", "or_"):
    _pure = getattr(operator, _name)
    setattr(ExampleProxy, f"__i{_name.rstrip('_')}__", _in_place_operator(_pure))


def is_proxy(value: Any) -> bool:
    """Whether a value is an ExampleProxy (``isinstance`` would see the class of the example value)."""
    return issubclass(type(value), ExampleProxy)


def any_proxy(value: Any) -> bool:
    """Whether nested arguments hold a proxy."""
    proxies: list[ExampleProxy] = []

    def look(leaf: Any) -> Any:
        if is_proxy(leaf):
            proxies.append(leaf)
        return leaf

    map_values(value, look)
    return bool(proxies)


def example_side(value: Any, side: int) -> Any:
    """Return nested arguments with every proxy replaced by its value on one of the examples."""
    return map_values(value, lambda leaf: leaf.pair[side] if is_proxy(leaf) else leaf)


def map_values(value: Any, function: Callable[[Any], Any]) -> Any:
    """Map nested arguments as FX does, but a proxy of a tuple is a leaf, and subclasses of tuple become tuples."""
    if is_proxy(value):
        return function(value)
    if isinstance(value, slice):
        return slice(*(map_values(v, function) for v in (value.start, value.stop, value.step)))
    if isinstance(value, dict):
        return {key: map_values(item, function) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [map_values(item, function) for item in value]
        return (
            items if isinstance(value, list) else (type(value)(*items) if hasattr(value, "_fields") else tuple(items))
        )
    return function(value)
