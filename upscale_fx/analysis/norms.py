"""Find norms over channels in a graph: single calls, and the reductions that traced modules decompose into.

A norm is

1. a *normalisation*: one call that normalises its operand along its last axes (``F.layer_norm``, ``F.normalize``), or
2. a *statistic*: a reduction over channels (and perhaps rows) of a value, or of its squares, that is used only on this
   value: a mean or sum is subtracted from it; an L2 norm, a sum or mean of squares, a variance or a standard deviation
   scales it. Arithmetic, aggregations and gathers of rows may lie between.

PyG's LayerNorm and PairNorm, and norms written by hand, decompose into statistics. A sum that scales (softmax) is not a
norm, because the mean of other terms is no estimate of a term. Norms of raw inputs are not found: inputs keep all
channels, so an estimate would save nothing.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_geometric.utils as pyg
from torch import fx
from torch.nn import functional as F

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Axes
from upscale_fx.channels.relations import Movement, Pointwise, Source
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.channels.rules.registry import operation_of
from upscale_fx.compiled.calls import target_name
from upscale_fx.compiled.statistics import How

_LAYER_NORMS = {F.layer_norm, torch.layer_norm}
_SUMS: dict[Any, How] = {"sum": "sum", torch.sum: "sum", "mean": "mean", torch.mean: "mean"}
_NORMS = {"norm", torch.norm, torch.linalg.norm, torch.linalg.vector_norm}
_SPREADS: dict[Any, How] = {"var": "var", torch.var: "var", "std": "std", torch.std: "std"}
_SQUARES: dict[How, How] = {"sum": "sum of squares", "mean": "mean of squares"}
_SUBTRACTIONS = {"sub", "subtract"}
_SCALINGS = {"div", "divide", "true_divide", "truediv", "mul", "multiply"}


@dataclass(frozen=True)
class FoundNorm:
    """A call that normalises the last ``axes`` axes of ``source``, with ``width`` channels."""

    node: fx.Node
    source: fx.Node
    axes: int
    width: int
    eps: float
    weight: fx.Node | None = None
    bias: fx.Node | None = None


@dataclass(frozen=True)
class FoundStatistic:
    """A reduction of ``width`` channels of ``source``.

    ``share`` is the ratio of an unbiased variance to a biased one, ``n / (n - 1)``; ``rows`` are the aggregations of
    rows between source and reduction, the last first.
    """

    node: fx.Node
    source: fx.Node
    how: How
    dims: tuple[int, ...]
    keepdim: bool
    width: int
    share: float = 1.0
    rows: tuple[fx.Node, ...] = field(default=())


def find_norms(flow: Dataflow) -> list[FoundNorm]:
    """Return all normalisations (1) of hidden values."""
    norms = (_norm(operation_of(n, flow.values, flow.module)) for n in flow.nodes if n.op == "call_function")
    return [norm for norm in norms if norm is not None and _is_hidden(flow, norm.source)]


def _norm(op: Operation) -> FoundNorm | None:
    operand = op.axes_of(source := op.argument(0, "input"))
    if operand is None or op.call is not op.node or not operand.sizes:
        return None
    if op.call.target in _LAYER_NORMS:
        shape = tuple(op.argument(1, "normalized_shape"))
        weight, bias = op.argument(2, "weight"), op.argument(3, "bias")
        if operand.sizes[-len(shape) :] != shape or any(p is not None and p.op != "get_attr" for p in (weight, bias)):
            return None
        return FoundNorm(
            op.node, source, len(shape), math.prod(shape), op.argument(4, "eps", default=1e-5), weight, bias
        )
    if op.call.target is F.normalize:
        dim, eps = op.argument(2, "dim", default=1), op.argument(3, "eps", default=1e-12)
        last = isinstance(dim, int) and dim % len(operand.sizes) == len(operand.sizes) - 1
        if (
            last
            and operand.sizes[-1] is not None
            and op.argument(1, "p", default=2) == 2
            and op.argument(4, "out") is None
        ):
            return FoundNorm(op.node, source, 1, operand.shape[-1], eps)
    return None


def _is_hidden(flow: Dataflow, node: fx.Node) -> bool:
    """Whether a value has rows and several channels, and is not an input."""
    axes = flow.axes[node]
    return None in axes.sizes and axes.count > 1 and not isinstance(flow.relations[node], Source)


def find_statistics(flow: Dataflow, norms: list[FoundNorm]) -> list[FoundStatistic]:
    """Return all statistics (2) of hidden values."""
    statistics = []
    normalised = {norm.node for norm in norms}
    for node in flow.nodes:
        if node.op in ("call_function", "call_method") and node in flow.axes:
            statistic = _statistic(flow, operation_of(node, flow.values, flow.module))
            if statistic is not None and _comes_back(flow, statistic, normalised):
                statistics.append(statistic)
    return statistics


def _statistic(flow: Dataflow, op: Operation) -> FoundStatistic | None:
    target, source = op.call.target, op.argument(0, "input", "A", "x")
    operand = op.axes_of(source)
    kinds = (*_SUMS, *_NORMS, *_SPREADS)
    if operand is None or op.call is not op.node or not any(target == kind for kind in kinds):
        return None
    if target in _SPREADS:
        return _spread(flow, op, source, operand)
    place = 2 if target in _NORMS else 1
    if target in _NORMS and op.argument(1, "p", "ord", default=2) not in (None, "fro", 2):
        return None
    dims = _dims(op.argument(place, "dim"), operand)
    keepdim = bool(op.argument(place + 1, "keepdim", default=False))
    if dims is None or "dtype" in op.call.kwargs or len(op.call.args) > place + 2:
        return None
    if target is torch.linalg.norm and len(dims) > 1:
        return None  # may be a norm of matrices
    width = math.prod(operand.shape[axis] for axis in dims)
    if target in _NORMS:
        return FoundStatistic(op.node, source, "norm", dims, keepdim, width) if _is_hidden(flow, source) else None
    source, rows = _before_aggregation(flow, source, op.node, dims, keepdim)
    how, squared = _SUMS[target], _squared(source, rows[-1] if rows else op.node)
    if squared is not None:
        how, source = _SQUARES[how], squared
    return FoundStatistic(op.node, source, how, dims, keepdim, width, 1.0, rows) if _is_hidden(flow, source) else None


def _dims(dims: Any, operand: Axes) -> tuple[int, ...] | None:
    """Return the reduced axes; None unless one of them has several channels."""
    rank = len(operand.sizes)
    dims = range(rank) if dims is None else dims if isinstance(dims, tuple | list) else (dims,)
    if not all(type(dim) is int for dim in dims):
        return None
    axes = tuple(dim % rank for dim in dims)
    return axes if any(operand.shape[axis] > 1 for axis in axes) else None


def _spread(flow: Dataflow, op: Operation, source: fx.Node, operand: Axes) -> FoundStatistic | None:
    """``x.std(dim, unbiased, keepdim)``, ``x.std(unbiased)`` or ``x.std(dim, correction=..)``."""
    arguments = list(op.call.args[1:])
    if arguments and isinstance(arguments[0], bool):
        arguments.insert(0, None)
    named = dict(zip(("dim", "unbiased", "keepdim"), arguments, strict=False)) | dict(op.call.kwargs)
    dims = _dims(named.pop("dim", None), operand)
    keepdim, unbiased = bool(named.pop("keepdim", False)), named.pop("unbiased", True)
    correction = named.pop("correction", 1 if unbiased else 0)
    if dims is None or named or not isinstance(correction, int) or not _is_hidden(flow, source):
        return None
    count = 1
    for axis in dims:
        if correction and operand.sizes[axis] is None:
            return None  # the ratio depends on the number of rows
        count *= operand.shape[axis]
    if count <= correction:
        return None
    return FoundStatistic(op.node, source, _SPREADS[op.call.target], dims, keepdim, count, count / (count - correction))


def _before_aggregation(
    flow: Dataflow, source: fx.Node, reader: fx.Node, dims: tuple[int, ...], keepdim: bool
) -> tuple[fx.Node, tuple[fx.Node, ...]]:
    """Return the operand of a sum over channels from before rows were summed; both sums may be swapped."""
    rows: list[fx.Node] = []
    while source.target is pyg.scatter and set(source.users) == {reader}:
        op = operation_of(source, flow.values, flow.module)
        commutes = op.argument(4, "reduce", default="sum") in ("sum", "add", "mean") and 0 not in dims
        if not commutes or (op.argument(2, "dim", default=0) != 0 and not keepdim):
            break
        rows.append(source)
        source, reader = op.argument(0, "src"), source
    return source, tuple(rows)


def _squared(node: fx.Node, reader: fx.Node) -> fx.Node | None:
    """Return ``x`` if a node is ``x ** 2``, ``x.square()`` or ``x * x`` with no other reader; else None."""
    if set(node.users) != {reader} or not node.args or not isinstance(x := node.args[0], fx.Node):
        return None
    if node.target in ("square", torch.square):
        return x
    if node.target in ("pow", torch.pow, operator.pow):
        return x if len(node.args) == 2 and node.args[1] in (2, 2.0) else None
    return x if node.target in ("mul", torch.mul, operator.mul) and node.args[1:] == (x,) else None


def _comes_back(flow: Dataflow, statistic: FoundStatistic, normalised: set[fx.Node]) -> bool:
    """Whether all uses of a statistic centre or scale the value it was taken of."""
    derived = set(_derived(flow, statistic.source, normalised))
    allowed = _SUBTRACTIONS if statistic.how in ("mean", "sum") else _SCALINGS
    count, is_used = flow.axes[statistic.node].count, False
    stack, seen = [statistic.node], {statistic.node}
    while stack:
        node = stack.pop()
        for user in node.users:
            if user.target in ("size", getattr) or user in seen:
                continue
            relation = flow.relations.get(user)
            if not isinstance(relation, Pointwise | Movement) or user not in flow.axes:
                return False
            if flow.axes[user].count == count:
                seen.add(user)
                stack.append(user)
                continue
            name = target_name(user.target)
            others = set(relation.reads) - {node}
            if name not in allowed or not others & derived:
                return False
            is_used = True
    return is_used


def _derived(flow: Dataflow, source: fx.Node, normalised: set[fx.Node]) -> Iterator[fx.Node]:
    """Yield the source, and all values computed from it position by position; whatever needs these needs the source."""
    derived = {source}
    yield source
    for node in flow.nodes:
        relation = flow.relations.get(node)
        if node in normalised:
            same = bool(derived.intersection(node.all_input_nodes))
        elif isinstance(relation, Pointwise | Movement):
            count = flow.axes[source].count
            same = any(f.source in derived and f.is_identity and len(f.index) == count for f in relation.flows)
        else:
            same = False
        if same:
            derived.add(node)
            yield node
