"""In-place operations: their pure forms, and the other tensors that they change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from upscale_fx.compiled import functions
from upscale_fx.compiled.calls import target_name
from upscale_fx.tracing.proxy import CannotTrace, is_proxy

#: Uninitialised tensors become zeros, so that examples made from them are legal indices.
ZEROED: dict[Any, Any] = {torch.empty: torch.zeros, torch.empty_like: torch.zeros_like, "new_empty": "new_zeros"}


#: In-place methods that do more than change values.
_NO_VALUES = frozenset({"resize_", "resize_as_", "set_", "share_memory_", "apply_", "map_", "map2_", "rename_"})


def pure_form(kind: str, target: Any, args: Any, kwargs: Any) -> tuple[str, Any, Any, dict[str, Any], bool]:
    """Return the pure form of a call (kind, target, args, kwargs), and whether it changes its first argument."""
    kwargs = dict(kwargs)
    name = target_name(target)
    in_place = name.endswith("_") and not name.endswith("__") and not name.startswith("_")
    if not (len(args) > 0 and is_proxy(args[0]) and isinstance(args[0].pair[0], Tensor)):
        if kind == "call_method" and in_place and isinstance(args[0], Tensor):
            raise CannotTrace(f"'.{name}()' writes computed values into a constant tensor; {INTO_CONSTANT}")
        return kind, target, args, kwargs, False
    if kwargs.get("inplace"):
        return kind, target, args, {**kwargs, "inplace": False}, True
    if not in_place or name == "requires_grad_":
        return kind, target, args, kwargs, False
    if kind == "call_method":
        if hasattr(Tensor, name[:-1]):
            return kind, name[:-1], args, kwargs, True
        if name in _NO_VALUES:
            raise CannotTrace(f"in-place method '.{name}()' has no pure form")
        return "call_function", functions.changed_copy, (args[0], name, *args[1:]), kwargs, True
    pure = getattr(torch, name[:-1], None) or getattr(nn.functional, name[:-1], None)
    if kind == "call_function" and pure is not None:
        return kind, pure, args, kwargs, True
    return kind, target, args, kwargs, False


#: What to do about a write into a tensor that is not part of the graph.
INTO_CONSTANT = "make that tensor with x.new_tensor(...) or .clone() of one computed from the inputs"


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


def selected_rows(key: Any) -> Any:
    """Replace computed masks in a key by the indices they select, so that the number of rows is known."""
    if is_proxy(key):
        key = (key,) if is_mask(key) else key
    if type(key) is not tuple or not any(map(is_mask, key)):
        return key
    parts: list[Any] = []
    for part in key:
        parts += part.nonzero().unbind(1) if is_mask(part) else (part,)
    return tuple(parts) if len(parts) > 1 else parts[0]
