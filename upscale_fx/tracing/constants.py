"""Constants of the model: results that are equal on both examples and therefore on every graph."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from upscale_fx.compiled.calls import target_name
from upscale_fx.tracing.proxy import is_proxy


def values_equal(a: Any, b: Any) -> bool:
    """Whether two example values are the same Python constant."""
    if type(a) is not type(b) or isinstance(a, Tensor):
        return False
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(values_equal, a, b))
    if isinstance(a, bool | int | float | str | type(None) | torch.dtype | torch.device | torch.Size | torch.layout):
        return bool(a == b)
    return False


#: Calls on tensors whose result, if equal on both examples, is fixed by the model and does not depend on values.
_SHAPE_FACTS = frozenset({
    "size", "dim", "ndimension", "numel", "nelement", "is_floating_point", "is_complex", "is_contiguous", "is_signed",
    "element_size", "get_device", "stride", "is_same_size", "is_tensor", "sparse_dim", "dense_dim", "is_coalesced",
})  # fmt: skip
_COMPARISONS = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)


def is_constant(target: Any, arguments: Sequence[Any], value: Any) -> bool:
    """Whether a result that is equal on both examples is equal on every graph.

    Shapes and dtypes are. Results computed from row counts or tensor values are not: ``7 // 20 == 16 // 20``. Row
    counts may be compared with each other if they are equal on both examples, and with 0 and 1, because the check of
    the trace covers these cases; a branch on any other comparison is refused (``ExampleProxy.__bool__``).
    """
    if value is None:
        return True
    proxies = [argument for argument in arguments if is_proxy(argument)]
    if proxies and all(isinstance(proxy.pair[0], torch.dtype) for proxy in proxies):
        return True
    if target in _COMPARISONS and all(isinstance(proxy.pair[0], int) for proxy in proxies):
        others = [argument for argument in arguments if not is_proxy(argument)]
        same = len(proxies) == 2 and proxies[0].pair == proxies[1].pair
        return same or (len(proxies) == 1 and others[0] in (0, 1, None))
    name = target_name(target)
    return name in _SHAPE_FACTS and all(isinstance(proxy.pair[0], Tensor) for proxy in proxies)
