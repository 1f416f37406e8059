"""Calls that are recorded as others, on the way into the graph, because the others say what happens to channels.

Each function here gets the arguments of a call, proxies among them, and returns its result, recorded in another form;
NotImplemented if the call is recorded as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from upscale_fx.compiled import functions
from upscale_fx.tracing.proxy import is_proxy


def squeeze(x: Any, *dims: Any, dim: Any = None) -> Any:
    """Drop axes of size 1, by name: an axis of channels may have size 1 once others are removed.

    A row axis is dropped where a graph has one row, as ``squeeze`` does.
    """
    small, large = x.pair[0].shape, x.pair[1].shape
    if len(dims) == 1 and isinstance(dims[0], tuple | list):
        dims = tuple(dims[0])
    given = dims or (range(len(small)) if dim is None else dim if isinstance(dim, tuple | list) else (dim,))
    axes = sorted({axis % len(small) for axis in given}) if len(small) else []
    rows = [axis for axis in axes if small[axis] != large[axis]]
    alone = [axis for axis in axes if small[axis] == large[axis] == 1]
    if (dims or dim is not None) and len(alone) == len(axes):
        return NotImplemented
    result = x.squeeze(tuple(alone)) if alone else x
    left = [axis - sum(gone < axis for gone in alone) for axis in rows]
    if not left:
        return result
    return x.tracer.create_proxy("call_function", functions.squeeze_rows, (result, tuple(left)), {})


def fill(x: Any, value: Any) -> Any:
    """``x.fill_(value)``."""
    return torch.zeros_like(x) + value.to(x.dtype) if isinstance(value, Tensor) else torch.full_like(x, value)


def zero(x: Any) -> Any:
    """``x.zero_()``."""
    return torch.zeros_like(x)


def copied(x: Any, src: Any, non_blocking: bool = False) -> Any:
    """``x.copy_(src)``."""
    return (torch.zeros_like(x) + src).to(x.dtype)


def normal(x: Any, mean: float = 0.0, std: float = 1.0, **kwargs: Any) -> Any:
    """``x.normal_(mean, std)``."""
    return NotImplemented if kwargs else torch.randn_like(x) * std + mean


def uniform(x: Any, low: float = 0.0, high: float = 1.0, **kwargs: Any) -> Any:
    """``x.uniform_(low, high)``."""
    return NotImplemented if kwargs else torch.rand_like(x) * (high - low) + low


def gather(x: Any, dim: int, index: Any, **kwargs: Any) -> Any:
    """``x.gather(0, index.expand(..))``: whole rows of ``x [N, C]``."""
    rows = _same_for_all_channels(x, dim, index)
    return NotImplemented if rows is None or kwargs else x.index_select(0, rows)


def scatter_add(x: Any, dim: int, index: Any, src: Any) -> Any:
    """``x.scatter_add(0, index.expand(..), src)``: whole rows of ``src [E, C]`` are added to rows of ``x``."""
    rows = _same_for_all_channels(x, dim, index)
    if rows is None or not is_proxy(src) or any(a.shape != b.shape for a, b in zip(src.pair, index.pair, strict=True)):
        return NotImplemented
    return x.index_add(0, rows, src)


def _same_for_all_channels(x: Any, dim: int, index: Any) -> Any:
    """Return the first column of an index ``[E, C]`` that was expanded over all channels of ``x``; None otherwise."""
    if not is_proxy(index) or x.pair[0].dim() != 2 or dim not in (0, -2):
        return None
    for value, at in zip(x.pair, index.pair, strict=True):
        if at.dim() != 2 or at.shape[1] != value.shape[1] or (at.shape[1] > 1 and at.stride(1) != 0):
            return None
    return index[:, 0]


#: Up to this many groups, a convolution is written as one per group.
_MOST_GROUPS = 8


def grouped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the rewrite of a convolution in groups: one convolution per group, joined."""

    def rewrite(
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: Any = 1,
    ) -> Any:
        if groups == 1 or groups > _MOST_GROUPS or input.dim() != weight.dim():
            return NotImplemented
        biases = [None] * groups if bias is None else bias.chunk(groups)
        parts = zip(input.chunk(groups, 1), weight.chunk(groups), biases, strict=True)
        return torch.cat([function(x, w, b, stride, padding, dilation) for x, w, b in parts], 1)

    return rewrite


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: Any = None,
    is_causal: Any = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """``scaled_dot_product_attention``, written out: ``softmax(q k' / sqrt(d)) v``."""
    if is_proxy(is_causal) or (is_causal and attn_mask is not None):
        return NotImplemented
    if enable_gqa:
        groups = query.size(-3) // key.size(-3)
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    logits = torch.matmul(query, key.transpose(-2, -1)) * (scale or 1 / math.sqrt(query.size(-1)))
    if is_causal:
        everything = torch.ones((query.size(-2), key.size(-2)), dtype=torch.bool, device=query.device)
        attn_mask = everything.tril()
    if attn_mask is None:
        pass
    elif attn_mask.dtype == torch.bool:
        logits = logits.masked_fill(~attn_mask, float("-inf"))
    else:
        logits = logits + attn_mask
    weights = torch.softmax(logits, dim=-1)
    if attn_mask is not None:  # a query that may attend to no key gets weights 0, not NaN
        weights = weights.masked_fill((logits == float("-inf")).all(dim=-1, keepdim=True), 0.0)
    if dropout_p is not None:  # written down even where it is 0, as in eval(), so that both modes are one graph
        weights = F.dropout(weights, dropout_p, True)
    return torch.matmul(weights, value)


def rewritten(target: Any, args: Any, kwargs: Any) -> Any:
    """Return the result of a call recorded in another form, NotImplemented if there is none."""
    function = REWRITTEN.get(target)
    if function is None or not args or not is_proxy(args[0]):
        return NotImplemented
    return function(*args, **kwargs)


#: Call -> the function that records it in another form. In-place methods are looked up by their own name.
REWRITTEN: dict[Any, Callable[..., Any]] = {
    "squeeze": squeeze, torch.squeeze: squeeze, "gather": gather, torch.gather: gather,
    "scatter_add": scatter_add, torch.scatter_add: scatter_add, "scatter_add_": scatter_add, "squeeze_": squeeze,
    "fill_": fill, torch.fill_: fill, "zero_": zero, torch.zero_: zero, "copy_": copied, "normal_": normal,
    "uniform_": uniform, F.scaled_dot_product_attention: attention,
    F.conv1d: grouped(F.conv1d), F.conv2d: grouped(F.conv2d),
}  # fmt: skip
