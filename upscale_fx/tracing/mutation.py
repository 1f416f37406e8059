"""In-place operations: their pure forms, and the other tensors that they change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from upscale_fx.compiled.calls import target_name
from upscale_fx.tracing.proxy import CannotTrace, is_proxy

#: Uninitialised tensors become zeros, so that examples made from them are legal indices.
ZEROED: dict[Any, Any] = {torch.empty: torch.zeros, torch.empty_like: torch.zeros_like, "new_empty": "new_zeros"}


def pure_form(kind: str, target: Any, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any], bool]:
    """Return the pure form of an operation (target, kwargs), and whether the operation changes its first argument."""
    kwargs = dict(kwargs)
    if not (len(args) > 0 and is_proxy(args[0]) and isinstance(args[0].pair[0], Tensor)):
        return target, kwargs, False
    if kwargs.get("inplace"):
        return target, {**kwargs, "inplace": False}, True
    name = target_name(target)
    if not name.endswith("_") or name.endswith("__") or name.startswith("_"):
        return target, kwargs, False
    if kind == "call_method":
        if hasattr(Tensor, name[:-1]):
            return name[:-1], kwargs, True
        if name == "requires_grad_":
            return target, kwargs, False
        raise CannotTrace(f"in-place method '.{name}()' has no pure form")
    pure = getattr(torch, name[:-1], None) or getattr(nn.functional, name[:-1], None)
    if kind == "call_function" and pure is not None:
        return pure, kwargs, True
    return target, kwargs, False


def shares_storage(first: Any, second: Any) -> bool:
    """Whether two values are tensors in the same memory."""
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return False
    address = first.untyped_storage().data_ptr()
    return address != 0 and address == second.untyped_storage().data_ptr()


def is_mask(key: Any) -> bool:
    """Whether a key is a computed mask: a boolean tensor with at least one axis, and not a parameter or buffer."""
    is_computed = is_proxy(key) and key.node.op != "get_attr" and isinstance(key.pair[0], Tensor)
    return is_computed and key.pair[0].dtype == torch.bool and key.pair[0].dim() > 0
