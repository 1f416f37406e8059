"""Which results are constants of the model: the same on both examples, and so on every graph."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from upscale_fx.compiled.calls import target_name
from upscale_fx.tracing.proxy import CannotTrace, is_proxy


def values_equal(a: Any, b: Any) -> bool:
    """Whether two example values are the same Python constant."""
    if type(a) is not type(b) or isinstance(a, Tensor):
        return False
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(values_equal, a, b))
    if isinstance(a, bool | int | float | str | type(None) | torch.dtype | torch.device | torch.Size | torch.layout):
        return bool(a == b)
    return False


#: Calls on tensors whose result is a fact of the model where both examples agree, not something read off values.
_SHAPE_FACTS = frozenset({
    "size", "dim", "ndimension", "numel", "nelement", "is_floating_point", "is_complex", "is_contiguous", "is_signed",
    "element_size", "get_device", "stride", "is_same_size", "is_tensor",
})  # fmt: skip
_COMPARISONS = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)


def is_constant(target: Any, arguments: Sequence[Any], value: Any) -> bool:
    """Whether a result that is equal on both examples is so on every graph.

    Shapes and dtypes are. What is computed from a row count or from tensor values is not: ``7 // 20 == 11 // 20``.
    Row counts may be compared with each other where they are the same on both examples, and with 0 and 1, which the
    check of the trace covers.
    """
    if value is None:
        return True
    proxies = [argument for argument in arguments if is_proxy(argument)]
    if proxies and all(isinstance(proxy.pair[0], torch.dtype) for proxy in proxies):
        return True
    if target in _COMPARISONS and all(isinstance(proxy.pair[0], int) for proxy in proxies):
        others = [argument for argument in arguments if not is_proxy(argument)]
        same = len(proxies) == 2 and proxies[0].pair == proxies[1].pair
        if same or (len(proxies) == 1 and others[0] in (0, 1, None)):
            return True
        raise CannotTrace("a branch depends on the number of nodes, edges or graphs")
    name = target_name(target)
    return name in _SHAPE_FACTS and all(isinstance(proxy.pair[0], Tensor) for proxy in proxies)
