"""Functions and modules of upscale_fx that appear in traced graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.node import has_side_effect
from torch.overrides import handle_torch_function, has_torch_function_unary

from upscale_fx.compiled.check_inputs import check_inputs
from upscale_fx.errors import InputError
from upscale_fx.operators.kernels import memory


class ByMode(nn.Module):
    """A constant that depends on the mode: ``train`` after ``train()``, ``eval`` after ``eval()``.

    Tracing turns ``self.training`` into a constant; a constant that differs between the modes becomes this module.
    """

    def __init__(self, train: Any, evaluation: Any) -> None:
        super().__init__()
        self.in_train, self.in_eval = train, evaluation

    def forward(self) -> Any:
        """Return the constant of the current mode."""
        return self.in_train if self.training else self.in_eval

    def extra_repr(self) -> str:
        """Show both constants."""
        return f"train={self.in_train!r}, eval={self.in_eval!r}"


def set_item(x: Tensor, key: Any, value: Any) -> Tensor:
    """``x[key] = value`` without touching ``x``: the functional form of item assignment."""
    out = x.clone()
    out[key] = value
    return out


def changed_copy(x: Tensor, method: str, *args: Any, **kwargs: Any) -> Tensor:
    """Return a copy of ``x`` after an in-place method of that name: the functional form of one that has no other."""
    out = x.clone()
    getattr(out, method)(*args, **kwargs)
    return out


def squeeze_rows(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Drop those of the row axes, in ascending order, that have one row in this graph, as ``x.squeeze()`` does."""
    for axis in reversed(axes):
        x = x.squeeze(axis)
    return x


def largest_index(index: Tensor) -> Tensor:
    """Return the largest entry of an index, -1 if it is empty; the number of rows is one more."""
    return index.max() if index.numel() else index.new_full((), -1)


def numpy_number(name: str, number: float) -> float:
    """Return a function of NumPy, by its name, of a number: ``np.sqrt(x.size(0))``."""
    with np.errstate(all="ignore"):
        return float(getattr(np, name)(number))


def entry(x: Tensor) -> Tensor:
    """Return the raw input; compaction replaces this call by a gather of the features that are read."""
    return x


def rows_of(table: Tensor) -> Tensor:
    """Return a parameter whose first axis numbers nodes; its example values have different numbers of rows."""
    return table


def _may_overwrite(x: Tensor) -> bool:
    """Whether no gradient needs the old values, and autocast cannot change the dtype of the result."""
    return not torch.is_grad_enabled() and not torch.is_autocast_enabled(x.device.type)


def add_linear(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return ``total + x @ weight.T``, written over ``total`` if no gradient is needed; no other node may read that.

    Args:
        total: ``[N, O]``.
        x: ``[N, I]``.
        weight: ``[O, I]``.
    """
    if not memory.is_steady(x, weight):
        return total + memory.linear(x, weight)
    # One operation in both cases: a product that is added afterwards is rounded once more.
    return total.addmm_(x, weight.t()) if _may_overwrite(total) else torch.addmm(total, x, weight.t())


def add_into(total: Tensor, other: Tensor) -> Tensor:
    """Return ``total + other``, written over ``total`` if no gradient is needed; no other node may read ``total``."""
    return total.add_(other) if _may_overwrite(total) else total + other


def relu_into(x: Tensor) -> Tensor:
    """Return ``relu(x)``, written over ``x`` if no gradient is needed; no other node may read ``x``."""
    return x.relu_() if _may_overwrite(x) else torch.relu(x)


def elu_into(x: Tensor, alpha: float) -> Tensor:
    """Return ``elu(x)``, written over ``x`` if no gradient is needed; no other node may read ``x``."""
    return nn.functional.elu(x, alpha, inplace=_may_overwrite(x))


def head_dot(x: Tensor, vector: Tensor) -> Tensor:
    """Return the dot product of each head with its vector, as one matrix product.

    Args:
        x: ``[N, H, C]``.
        vector: ``[H, C]``, with or without leading axes of size 1.

    Returns:
        ``[N, H]``.
    """
    heads = vector.reshape(vector.shape[-2:]).unbind(0)
    return memory.linear(x.flatten(1), torch.block_diag(*heads))  # type: ignore[no-untyped-call]


def in_order(x: Tensor, order: Tensor) -> Tensor:
    """Return the rows of a value per edge in the given order of edges.

    Raises:
        InputError: the number of rows differs from the number of edges.
    """
    if x.size(0) != order.size(0):
        raise InputError(f"a value per edge has {x.size(0)} rows, but there are {order.size(0)} edges")
    return x.index_select(0, order)


def inverse_order(order: Tensor) -> Tensor:
    """Return the inverse permutation: ``x[order][inverse_order(order)]`` is ``x``."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))


def place_channels(x: Tensor, index: tuple[int, ...]) -> Tensor:
    """Return ``[.., len(index)]`` of ``x [.., C]``: channel ``index[i]`` at place ``i``, zeros where that is -1."""
    padded = nn.functional.pad(x, (0, 1))
    return padded.index_select(-1, torch.tensor(index, device=x.device) % padded.size(-1))


def gather_channels(x: Tensor, index: Tensor, start: int, shape: Sequence[int]) -> Tensor:
    """Flatten the axes from ``start`` on, select the channels at ``index``, and unflatten them to ``shape``."""
    return torch.unflatten(x.flatten(start).index_select(start, index), start, shape)


def knn_by_features(x: Tensor, per_graph: int, k: int, dilation: int = 1) -> Tensor:
    """Return the ``k`` nearest nodes of every node of its graph, by Euclidean distance of features, nearest first.

    A node is its own first neighbour, as in Vision GNN (Han et al., NeurIPS 2022, arXiv:2206.00272). A trace records
    each call as one node.

    Args:
        x: node features ``[N, C]`` of graphs one after another.
        per_graph: nodes of each graph, P.
        k: neighbours of a node.
        dilation: take every ``dilation``-th of the nearest ``k * dilation`` nodes.

    Returns:
        Indices of nodes ``[N, k]``.
    """
    if has_torch_function_unary(x):
        traced: Tensor = handle_torch_function(knn_by_features, (x,), x, per_graph, k, dilation)
        return traced
    nodes = x.detach().reshape(-1, per_graph, x.size(1))  # [G, P, C]
    # |x_i - x_j|^2 without |x_i|^2, which is the same for all neighbours of i
    distances = nodes.square().sum(dim=-1).unsqueeze(1) - 2 * torch.bmm(nodes, nodes.transpose(1, 2))  # [G, P, P]
    nearest = distances.topk(k * dilation, dim=-1, largest=False).indices[..., ::dilation]
    first = torch.arange(nodes.size(0), device=x.device) * per_graph
    return (nearest + first.view(-1, 1, 1)).flatten(0, 1)


# The check has no users in the graph; without this mark, dead code elimination would drop it.
has_side_effect(check_inputs)
