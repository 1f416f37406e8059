"""Raising: put back PyG's functions, which Dynamo inlined.

Each pattern is one of PyG's own definitions, node by node: ``torch_geometric.utils.scatter`` (sum, mean, max, min, mul)
and ``torch_geometric.utils.softmax`` over an index. Nodes that match no pattern stay as they are, and their channels
are kept where no rule covers them.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch_geometric.utils as pyg
from torch import fx

#: PyG's name of each reduction, the call that fills the result first, and whether the fill takes part.
_REDUCED = {"amax": ("max", "new_zeros", False), "amin": ("min", "new_zeros", False), "prod": ("mul", "new_ones", True)}
_ADDED = ("scatter_add_", "scatter_add", torch.scatter_add)
#: Calls that change their first operand.
_INTO = ("scatter_add_", "scatter_reduce_")


def raise_leaves(graph: fx.Graph) -> int:
    """Put PyG's functions back; returns how many."""
    _read_results(graph)
    count = 0
    for pattern in (_scatter, _mean, _softmax):
        for node in list(graph.nodes):
            call = pattern(node)
            if call is not None:
                target, args = call
                with graph.inserting_before(node):
                    leaf = graph.call_function(target, args)
                leaf.meta = dict(node.meta)
                node.replace_all_uses_with(leaf)
                graph.erase_node(node)
                count += 1
    return count


def _read_results(graph: fx.Graph) -> None:
    """Let nodes that read a tensor after a scatter into it read the result of the scatter, which is the same."""
    place = {node: number for number, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if node.target in _INTO and isinstance(base := node.args[0], fx.Node):
            for user in list(base.users):
                if place[user] > place[node]:
                    user.replace_input_with(base, node)


Call = tuple[Any, tuple[Any, ...]]


def _scatter(node: fx.Node) -> Call | None:
    """``new_zeros(size).scatter_add_(dim, index.view(..).expand_as(src), src)`` and variants."""
    if node.target in _ADDED and len(node.args) == 4 and not node.kwargs:
        reduce, fill = "sum", "new_zeros"
    elif node.target == "scatter_reduce_" and node.kwargs.get("reduce") in _REDUCED and len(node.args) == 4:
        reduce, fill, included = _REDUCED[str(node.kwargs["reduce"])]
        if node.kwargs.get("include_self", True) is not included:
            return None
    else:
        return None
    base, dim, broadcast, src = node.args
    index = _index(broadcast, src, dim)
    if index is None or not isinstance(base, fx.Node) or not isinstance(src, fx.Node) or not isinstance(dim, int):
        return None
    zeros = base.target == fill or (base.target is torch.zeros and fill == "new_zeros")
    if not zeros or set(base.users) != {node}:
        return None
    shape, shape_after = _sizes(src), _sizes(base)
    dim %= max(len(shape), 1)
    if len(shape) != len(shape_after) or shape[:dim] + shape[dim + 1 :] != shape_after[:dim] + shape_after[dim + 1 :]:
        return None
    sizes = base.args[1:] if base.target == fill else base.args
    if not sizes:
        return None
    count = sizes[0][dim] if isinstance(sizes[0], tuple | list) else sizes[dim]
    return pyg.scatter, (src, index, dim, count, reduce)


def _index(broadcast: Any, src: Any, dim: Any) -> fx.Node | None:
    """The index ``[E]`` that is broadcast to ``src`` along all axes but ``dim``."""
    if not isinstance(broadcast, fx.Node) or not isinstance(src, fx.Node) or not isinstance(dim, int):
        return None
    if len(_sizes(broadcast)) == 1 and broadcast.target != "expand_as":
        return broadcast if _sizes(broadcast) == _sizes(src) else None
    if broadcast.target != "expand_as" or broadcast.args[1:] != (src,):
        return None
    view = broadcast.args[0]
    if not isinstance(view, fx.Node) or view.target != "view":
        return None
    index, sizes = view.args[0], _sizes(view)
    alone = all(size == "1" for axis, size in enumerate(sizes) if axis != dim % len(sizes))
    is_vector = isinstance(index, fx.Node) and len(_sizes(index)) == 1 and len(sizes) == len(_sizes(src))
    return index if is_vector and alone else None  # type: ignore[return-value]


def _mean(node: fx.Node) -> Call | None:
    """A sum divided by the number of its terms, at least 1: ``sum / count.clamp(min=1).view(..).expand_as(sum)``."""
    if node.target is not operator.truediv:
        return None
    total, broadcast = node.args
    if not isinstance(total, fx.Node) or total.target is not pyg.scatter or total.args[4] != "sum":
        return None
    src, index, dim, size = total.args[:4]
    clamped = _index(broadcast, total, dim)
    if clamped is None or clamped.target != "clamp" or clamped.args[1:] or clamped.kwargs != {"min": 1}:
        return None
    count = clamped.args[0]
    if not isinstance(count, fx.Node) or count.target is not pyg.scatter or count.args[1:] != (index, 0, size, "sum"):
        return None
    ones = count.args[0]
    if not isinstance(ones, fx.Node) or ones.target != "new_ones":
        return None
    return pyg.scatter, (src, index, dim, size, "mean")


def _softmax(node: fx.Node) -> Call | None:
    """``e / (scatter(e, index) + 1e-16)[index]`` with ``e = exp(src - scatter(src, index, reduce="max")[index])``."""
    if node.target is not operator.truediv:
        return None
    exponent, gathered = node.args
    total = _gathered(gathered)
    if total is None or not isinstance(exponent, fx.Node) or exponent.target not in ("exp", torch.exp):
        return None
    plus, dim, index = total
    if plus.target is not operator.add or plus.args[1] != 1e-16 or not isinstance(plus.args[0], fx.Node):
        return None
    scattered = plus.args[0]
    if scattered.target is not pyg.scatter or scattered.args[:3] != (exponent, index, dim):
        return None
    size, reduce = scattered.args[3:]
    if reduce != "sum":
        return None
    difference = exponent.args[0]
    if not isinstance(difference, fx.Node) or difference.target is not operator.sub:
        return None
    src, shift = difference.args
    largest = _gathered(shift)
    if largest is None or largest[1:] != (dim, index) or largest[0].target is not pyg.scatter:
        return None
    source, *rest = largest[0].args
    is_source = isinstance(source, fx.Node) and source.target == "detach" and source.args == (src,)
    if not is_source or tuple(rest) != (index, dim, size, "max"):
        return None
    return pyg.softmax, (src, index, None, size, dim)


def _gathered(node: Any) -> tuple[fx.Node, Any, Any] | None:
    """``x.index_select(dim, index)`` as x, dim, index."""
    if not isinstance(node, fx.Node) or node.target != "index_select" or len(node.args) != 3:
        return None
    x, dim, index = node.args
    return (x, dim, index) if isinstance(x, fx.Node) else None


def _sizes(node: fx.Node) -> tuple[str, ...]:
    sizes: tuple[str, ...] = node.meta.get("sizes", ())
    return sizes
