"""Recurrent cells and attention as tensor operations, for functions that Dynamo calls with a module's parameters.

Tracing a model lowers recurrent cells and multi-head attention where modules are called (``tracing.lower``). Dynamo's
graph has the functions inside these modules, so the same definitions are called with the parameters of the modules.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from upscale_fx.tracing import lower


def _cell(definition: Callable[..., Any], **facts: Any) -> Callable[..., Any]:
    def call(
        input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
    ) -> Any:
        cell = SimpleNamespace(weight_ih=w_ih, weight_hh=w_hh, bias_ih=b_ih, bias_hh=b_hh, **facts)
        return definition(cell, input, hx)

    return call


_ATTENTION = signature(F.multi_head_attention_forward)


def _attention(*args: Any, **kwargs: Any) -> Any:
    """``F.multi_head_attention_forward``: queries, keys and values ``[L, B, E]``, or ``[L, E]`` without a batch."""
    call = _ATTENTION.bind(*args, **kwargs)
    call.apply_defaults()
    bound = SimpleNamespace(**call.arguments)
    if bound.static_k is not None or bound.static_v is not None:
        raise NotImplementedError("multi_head_attention_forward with static_k or static_v is not lowered")
    module: Any = SimpleNamespace(
        **call.arguments,
        embed_dim=bound.embed_dim_to_check,
        head_dim=bound.embed_dim_to_check // bound.num_heads,
        batch_first=False,
        dropout=bound.dropout_p,
        out_proj=SimpleNamespace(weight=bound.out_proj_weight, bias=bound.out_proj_bias),
        _qkv_same_embed_dim=not bound.use_separate_proj_weight,
    )
    return lower.multihead_attention(
        module, bound.query, bound.key, bound.value, bound.key_padding_mask, bound.need_weights, bound.attn_mask,
        bound.average_attn_weights, bound.is_causal,
    )  # fmt: skip


#: The lowered form of each function.
KERNELS: dict[Any, Callable[..., Any]] = {
    torch.gru_cell: _cell(lower.gru_cell),
    torch.lstm_cell: _cell(lower.lstm_cell),
    torch.rnn_tanh_cell: _cell(lower.rnn_cell, nonlinearity="tanh"),
    torch.rnn_relu_cell: _cell(lower.rnn_cell, nonlinearity="relu"),
    F.multi_head_attention_forward: _attention,
}
