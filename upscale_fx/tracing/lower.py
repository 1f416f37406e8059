"""Lower calls that torch runs in one opaque kernel to tensor operations, so that channel rules see every contraction.

Each function here computes the same result as the call, from the same parameters. ``LOWERED`` maps functions, and
``LOWERED_MODULES`` maps module types, to them. The equations are those of torch's documentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn.aggr import SortAggregation
from torch_geometric.nn.dense import HeteroLinear

from upscale_fx.tracing.proxy import is_proxy
from upscale_fx.tracing.wrapped import checkpoint


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """``a * sigmoid(b)`` of the two halves ``a`` and ``b``."""
    first, second = torch.chunk(input, 2, dim)
    return first * torch.sigmoid(second)


def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """``beta * input + alpha * batch1 @ batch2``."""
    product = torch.bmm(batch1, batch2)
    return (input if beta == 1 else beta * input) + (product if alpha == 1 else alpha * product)


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """``beta * input + alpha * mat1 @ mat2``; with a vector as input it is a linear layer and is not lowered."""
    if beta == 1 and alpha == 1 and input.dim() == 1:
        return NotImplemented  # type: ignore[no-any-return]
    product = torch.mm(mat1, mat2)
    return (input if beta == 1 else beta * input) + (product if alpha == 1 else alpha * product)


def hetero_linear(layer: HeteroLinear, x: Tensor, type_vec: Tensor) -> Tensor:
    """Multiply rows of ``x [N, I]`` by the weight ``[T, I, O]`` of their type.

    All rows are multiplied by the weight of every type, so that no size depends on values.
    """
    result: Tensor | float = 0.0
    for kind in range(layer.num_types):
        product = torch.matmul(x, layer.weight[kind])
        product = product if layer.bias is None else product + layer.bias[kind]
        result = torch.where((type_vec == kind).unsqueeze(-1), product, result)
    assert not isinstance(result, float)
    return result


def sort_aggregation(
    layer: SortAggregation,
    x: Tensor,
    index: Tensor | None = None,
    ptr: Tensor | None = None,
    dim_size: int | None = None,
    dim: int = -2,
    max_num_elements: int | None = None,
) -> Tensor:
    """Return the ``k`` nodes of every graph with the largest last channel; padding by ``k`` nodes avoids a branch."""
    fill = x.detach().min() - 1
    dense, _ = layer.to_dense_batch(x, index, ptr, dim_size, dim, fill, max_num_elements)
    graphs, nodes, width = dense.size()
    order = dense[:, :, -1].sort(dim=-1, descending=True)[1]
    order = order + (torch.arange(graphs, device=x.device) * nodes).view(-1, 1)
    dense = dense.view(graphs * nodes, width)[order].view(graphs, nodes, width)
    padding = fill * torch.ones((graphs, layer.k, width), dtype=x.dtype, device=x.device)
    chosen = torch.cat([dense, padding], dim=1)[:, : layer.k]
    return chosen.masked_fill(chosen == fill, 0.0).reshape(graphs, layer.k * width)


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``sum over i, j of input1[i] * weight[o, i, j] * input2[j]``."""
    outputs, first, second = weight.shape
    left = torch.matmul(input1, weight.permute(1, 0, 2).reshape(first, outputs * second))
    product = (torch.unflatten(left, -1, (outputs, second)) * input2.unsqueeze(-2)).sum(dim=-1)
    return product if bias is None else product + bias


def gru_cell(cell: nn.GRUCell, input: Tensor, hx: Tensor | None = None) -> Tensor:
    """One step of a gated recurrent unit, ``input [N, I]`` and ``hx [N, H]``."""
    hx = input.new_zeros(input.size(0), cell.hidden_size) if hx is None else hx
    reset, update, new = F.linear(input, cell.weight_ih, cell.bias_ih).chunk(3, dim=1)
    hidden_reset, hidden_update, hidden_new = F.linear(hx, cell.weight_hh, cell.bias_hh).chunk(3, dim=1)
    reset, update = torch.sigmoid(reset + hidden_reset), torch.sigmoid(update + hidden_update)
    candidate = torch.tanh(new + reset * hidden_new)
    return candidate + update * (hx - candidate)


def lstm_cell(cell: nn.LSTMCell, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """One step of a long short-term memory, ``input [N, I]``, states ``[N, H]``."""
    zero = input.new_zeros(input.size(0), cell.hidden_size)
    state, memory = (zero, zero) if hx is None else hx
    gates = F.linear(input, cell.weight_ih, cell.bias_ih) + F.linear(state, cell.weight_hh, cell.bias_hh)
    enter, forget, content, leave = gates.chunk(4, dim=1)
    memory = torch.sigmoid(forget) * memory + torch.sigmoid(enter) * torch.tanh(content)
    return torch.sigmoid(leave) * torch.tanh(memory), memory


def rnn_cell(cell: nn.RNNCell, input: Tensor, hx: Tensor | None = None) -> Tensor:
    """One step of a simple recurrent unit, ``input [N, I]`` and ``hx [N, H]``."""
    hx = input.new_zeros(input.size(0), cell.hidden_size) if hx is None else hx
    total = F.linear(input, cell.weight_ih, cell.bias_ih) + F.linear(hx, cell.weight_hh, cell.bias_hh)
    return torch.tanh(total) if cell.nonlinearity == "tanh" else torch.relu(total)


def multihead_attention(
    attention: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention over heads, ``query [B, L, E]`` (or ``[L, B, E]``, or ``[L, E]`` without a batch).

    Raises:
        NotImplementedError: for options that no graph layer uses.
    """
    if attention.bias_k is not None or attention.add_zero_attn or (is_causal and attn_mask is None):
        raise NotImplementedError("nn.MultiheadAttention with add_bias_kv, add_zero_attn or is_causal is not lowered")
    batched = query.dim() == 3
    values = [value if value is not key else None, key if key is not query else None]
    query = _batch_first(attention, query)
    key = query if values[1] is None else _batch_first(attention, key)
    value = key if values[0] is None else _batch_first(attention, value)
    heads, width = attention.num_heads, attention.head_dim
    q, k, v = (_split_heads(x, heads, width) for x in _projected(attention, query, key, value))
    logits = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(width)
    for mask in (attn_mask, key_padding_mask):
        if mask is not None:
            logits = _masked(logits, mask, mask is key_padding_mask, heads)
    weights = torch.softmax(logits, dim=-1)
    if not need_weights and (attn_mask is not None or key_padding_mask is not None):
        # As in torch's scaled_dot_product_attention, a query that may attend to no key gets weights 0, not NaN.
        weights = weights.masked_fill((logits == float("-inf")).all(dim=-1, keepdim=True), 0.0)
    weights = F.dropout(weights, attention.dropout, attention.training)
    joined = torch.matmul(weights, v).transpose(1, 2).flatten(2)
    result = F.linear(joined, attention.out_proj.weight, attention.out_proj.bias)
    if not batched:
        result, weights = result.squeeze(0), weights.squeeze(0)
    elif not attention.batch_first:
        result = result.transpose(0, 1)
    if not need_weights:
        return result, None
    return result, weights.mean(dim=-3) if average_attn_weights else weights


def _batch_first(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    if x.dim() == 2:
        return x.unsqueeze(0)
    return x if attention.batch_first else x.transpose(0, 1)


def _projected(attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    width = attention.embed_dim
    bias: Tensor | None = getattr(attention, "in_proj_bias", None)
    biases: Sequence[Tensor | None] = [None] * 3 if bias is None else torch.split(bias, width)
    if not attention._qkv_same_embed_dim:
        weights = [attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]
        return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]
    if query is key and key is value:
        return list(F.linear(query, attention.in_proj_weight, bias).chunk(3, dim=-1))
    parts = torch.split(attention.in_proj_weight, width)
    return [F.linear(x, w, b) for x, w, b in zip((query, key, value), parts, biases, strict=True)]


def _split_heads(x: Tensor, heads: int, width: int) -> Tensor:
    """``[B, L, H * D]`` to ``[B, H, L, D]``."""
    return torch.unflatten(x, -1, (heads, width)).transpose(1, 2)


def _masked(logits: Tensor, mask: Tensor, padding: bool, heads: int) -> Tensor:
    if padding:  # [B, S], or [S] without a batch
        mask = mask[:, None, None, :] if mask.dim() == 2 else mask
    elif mask.dim() == 3:  # [B * H, L, S]
        mask = torch.unflatten(mask, 0, (-1, heads))
    if mask.dtype == torch.bool:
        return logits.masked_fill(mask, float("-inf"))
    return logits + mask


#: Function -> the function that replaces it in traces.
LOWERED: dict[Callable[..., Any], Callable[..., Any]] = {
    F.glu: glu, torch.baddbmm: baddbmm, torch.addmm: addmm, F.bilinear: bilinear, torch.bilinear: bilinear,
    torch.utils.checkpoint.checkpoint: checkpoint,
}  # fmt: skip

#: Module type -> the function that replaces its calls in traces; the module is the first argument.
LOWERED_MODULES: dict[type[nn.Module], Callable[..., Any]] = {
    nn.GRUCell: gru_cell, nn.LSTMCell: lstm_cell, nn.RNNCell: rnn_cell, nn.MultiheadAttention: multihead_attention,
    HeteroLinear: hetero_linear, SortAggregation: sort_aggregation,
}  # fmt: skip


def lowered_module(module: nn.Module) -> Callable[..., Any] | None:
    """Return the function that replaces calls of a module; None if they are not lowered."""
    return next((LOWERED_MODULES[cls] for cls in type(module).__mro__ if cls in LOWERED_MODULES), None)


def is_largest_index(target: Any, args: Any, kwargs: Any) -> bool:
    """Whether a call is ``index.max()``, from which PyG's layers compute the number of nodes."""
    if target not in ("max", torch.max) or len(args) != 1 or kwargs or not is_proxy(args[0]):
        return False
    return isinstance(args[0].pair[0], Tensor) and args[0].pair[0].dtype == torch.long
