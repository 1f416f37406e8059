"""Changes to the behaviour of torch, PyG and Python's built-in functions while a model is traced."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch_geometric
from torch_geometric.nn.aggr import Aggregation

from upscale_fx.compiled.undisturbed import attributes_replaced
from upscale_fx.tracing.leaves import recorder
from upscale_fx.tracing.modules.gradients import TAKE_GRADIENTS
from upscale_fx.tracing.mutation import INTO_CONSTANT
from upscale_fx.tracing.proxy import CannotTrace, any_proxy, is_proxy


@cache
def traced_builtins() -> dict[str, Any]:
    """Return the ``int``, ``min``, ``max`` and ``len`` of traced modules; calls on proxies become nodes."""
    recorded = recorder(builtins.int)

    class int_(metaclass=_TracedInt):
        def __new__(cls, value: Any = 0, *args: Any) -> Any:
            return recorded(value) if is_proxy(value) else builtins.int(value, *args)

    def len_(value: Any) -> Any:
        has_rows = is_proxy(value) and isinstance(value.pair[0], torch.Tensor)
        return value.size(0) if has_rows else builtins.len(value)

    return {"int": int_, "len": len_, "min": recorder(builtins.min), "max": recorder(builtins.max)}


class _TracedInt(type):
    """The ``int`` of traced modules: ``int`` to ``isinstance``, but ``int(proxy)`` becomes a node."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, builtins.int)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, builtins.int)


@contextmanager
def tracing_quirks() -> Iterator[None]:
    """Choose the paths through PyG that do not read values, and refuse calls that would pass proxies to C++."""
    function, backend, aggregation = torch.autograd.Function, torch_geometric.backend, Aggregation
    original_apply = function.__dict__["apply"]

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        if any_proxy((args, kwargs)):
            raise CannotTrace(f"the autograd function '{cls.__name__}' is opaque; call tensor operations instead")
        return original_apply.__get__(None, cls)(*args, **kwargs)

    replacements = {
        (function, "apply"): classmethod(apply),
        **{(sys.modules[taken.__module__], taken.__name__): recorder(taken) for taken in TAKE_GRADIENTS},
        (backend, "use_segment_matmul"): False,
        # PyG requires a sorted index here; a graph does not repeat the check in every call.
        (aggregation, "assert_sorted_index"): lambda self, index: None,
    }
    with attributes_replaced(replacements):
        yield


#: Methods of tensors that take sizes. torch's argument parser refuses proxies there.
_TAKE_SIZES = (
    "expand", "repeat", "tile", "view", "reshape", "unflatten", "narrow", "repeat_interleave", "new_zeros", "new_ones",
    "new_full", "new_empty",
)  # fmt: skip


@contextmanager
def sizes_of_constants(record: Callable[..., Any]) -> Iterator[None]:
    """Within the block, constant tensors take row counts as sizes: ``torch.arange(4).expand(x.size(0), 4)``.

    Args:
        record: records a call of a method, from its name, its positional and its keyword arguments.
    """
    set_item = torch.Tensor.__setitem__

    def method(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if any_proxy((args, kwargs)):
                return record("call_method", name, (self, *args), kwargs)
            return original(self, *args, **kwargs)

        return call

    def refuse(self: Any, key: Any, value: Any) -> Any:
        if any_proxy((key, value)):
            raise CannotTrace(f"'x[..] = ..' writes computed values into a constant tensor; {INTO_CONSTANT}")
        return set_item(self, key, value)

    methods = {(torch.Tensor, name): method(name, getattr(torch.Tensor, name)) for name in _TAKE_SIZES}
    with attributes_replaced({(torch.Tensor, "__setitem__"): refuse, **methods}):
        yield
