"""Calls with NumPy's numbers and arrays among their arguments, recorded as what torch makes of them.

A *number* (``np.float64(0.3)``, ``np.prod(sizes)``) counts for torch like a Python number: it never raises the
precision of a tensor. An *array* becomes a constant tensor of the graph. Where a tensor meets an array in an
operator, torch lets NumPy compute, by NumPy's rules for dtypes: both sides are cast to the dtype that these give.
"""

from __future__ import annotations

import operator
import warnings
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upscale_fx.compiled.calls import describe_call
from upscale_fx.tracing.leaves import ALWAYS_RECORDED
from upscale_fx.tracing.proxy import CannotTrace, ProxyTracer, example_side, is_proxy, map_values

#: Operators between tensors and arrays for which torch calls NumPy. It compares them for equality itself.
_COMPUTED_BY_NUMPY = {
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
    operator.matmul, operator.and_, operator.or_, operator.xor,
}  # fmt: skip
#: Calls that make a tensor of their data, which would be an array, and where that stands.
_OF_DATA: dict[Any, int] = {torch.tensor: 0, "new_tensor": 1}


def numpy_call(tracer: ProxyTracer, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
    """Return the result of a call, recorded without NumPy's values; NotImplemented if there are none in it.

    Args:
        tracer: the tracer.
        kind: the op of the node.
        target: the function, the name of the method or the path of the module.
        args: positional arguments, proxies among them; a method's object first.
        kwargs: keyword arguments.

    Raises:
        CannotTrace: an array meets a row count, or the result would have another dtype than that of the model.
    """
    found: list[Any] = []
    map_values((args, kwargs), lambda leaf: found.append(leaf) if isinstance(leaf, np.generic | np.ndarray) else None)
    if not found:
        return NotImplemented
    if target in _COMPUTED_BY_NUMPY and any(isinstance(value, np.ndarray) for value in args):
        new_args, new_kwargs = _by_numpy_rules(args), kwargs
    else:
        new_args, new_kwargs = map_values((tuple(args), dict(kwargs)), without_numpy)
    expected = _dtype(kind, target, args, kwargs)
    if target in _OF_DATA and any(isinstance(value, np.ndarray) for value in args[_OF_DATA[target] :]):
        return _tensor_of(tracer, target, new_args, new_kwargs)
    if target is torch.tensor and expected is not None:
        new_kwargs = {"dtype": expected, **new_kwargs}
    if expected is not None and _dtype(kind, target, new_args, new_kwargs) != expected:
        # torch takes a NumPy bool for a floating-point number in arithmetic
        new_args = tuple(
            float(new) if isinstance(old, np.bool_) else new for old, new in zip(args, new_args, strict=True)
        )
        if _dtype(kind, target, new_args, new_kwargs) != expected:
            raise CannotTrace(
                f"NumPy's dtype rules decide the result of {describe_call(kind, target)} with a "
                f"{type(found[0]).__name__}; use Python numbers and torch tensors in it"
            )
    return tracer.create_proxy(kind, target, new_args, new_kwargs)


def without_numpy(value: Any) -> Any:
    """Return Python's number for one of NumPy, a tensor with a copy of the values for an array; others as they are."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value))
    if isinstance(value, np.complex64 | np.clongdouble):
        return float(value.real)  # as torch takes it, with a warning
    return value.item() if isinstance(value, np.generic) else value


def _by_numpy_rules(args: Any) -> tuple[Any, ...]:
    """Return both operands of an operator, a tensor and an array, as tensors of the dtype in which NumPy computes.

    Raises:
        CannotTrace: the array meets a row count, so that it has other values for every graph.
    """
    tensor = next(value for value in args if not isinstance(value, np.ndarray))
    if not is_proxy(tensor) or not isinstance(tensor.pair[0], Tensor):
        raise CannotTrace(
            "a NumPy array is computed with a number of nodes, edges or graphs; make it with torch (torch.arange)"
        )
    array = next(value for value in args if isinstance(value, np.ndarray))
    common = np.result_type(tensor.pair[0].numpy().dtype, array.dtype)
    dtype = torch.from_numpy(np.empty(0, common)).dtype
    if tensor.pair[0].dtype != dtype:
        tensor = tensor.to(dtype)
    constant = torch.from_numpy(array.astype(common))
    return tuple(constant if isinstance(value, np.ndarray) else tensor for value in args)


def _tensor_of(tracer: ProxyTracer, target: Any, args: Any, kwargs: Any) -> Any:
    """Record ``torch.tensor(array, ..)`` or ``x.new_tensor(array, ..)`` as a conversion of a constant tensor."""
    kwargs = {key: value for key, value in kwargs.items() if key != "requires_grad"}
    if target == "new_tensor":
        own, *args = args
        kwargs = {"dtype": own.dtype, "device": own.device, **kwargs}
    return tracer.create_proxy("call_function", torch.as_tensor, tuple(args), kwargs)


def _dtype(kind: str, target: Any, args: Any, kwargs: Any) -> torch.dtype | None:
    """Return the dtype of a result on the small example; None for calls that give no tensor or run Python code."""
    if kind == "call_module" or isinstance(target, FunctionType) or target in ALWAYS_RECORDED:
        return None  # what constructors are given are sizes, and values of a stated dtype
    own, others = example_side(tuple(args), 0), example_side(dict(kwargs), 0)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the model itself warns, once
            result = getattr(own[0], target)(*own[1:], **others) if kind == "call_method" else target(*own, **others)
    except Exception:  # the error of the model's call itself, which is recorded as it is, says more
        return None
    return result.dtype if isinstance(result, Tensor) else None
