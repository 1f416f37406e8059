"""Work once per node instead of once per edge: ``f(x[index])`` becomes ``f(x)[index]``.

There are far fewer nodes than edges. (1) A call that treats every row by itself moves to the nodes if one index of the
edges gathers all its operands with rows. (2) A linear layer of a concatenation ``[x_i, x_j, e]``, or of a sum or
difference, becomes the sum of linear layers of the parts; (1) then moves these to the nodes.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult
from torch.nn import functional as F

from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.analysis.row_order import commutes_with_gather
from upscale_fx.analysis.sorted_edges import Gathered, gathered, sorted_edges
from upscale_fx.channels.positions import axes_of
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.compiled.calls import DIFFERENCES, SUMS
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.purity import is_pure
from upscale_fx.passes.base import edited


@dataclass(frozen=True)
class LiftToNodes:
    """Move work from the edges to the nodes where the result is the same; exact."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited(gm, lift_to_nodes)


def lift_to_nodes(gm: CompiledGNN) -> int:
    """Move work to the nodes in place; returns how many calls changed."""
    edges = sorted_edges(gm.graph)
    if not edges:
        return 0
    flow = analyse(gm)
    indices = {user for ordered in edges.values() for user in ordered.order.users}
    count = sum(take_apart(flow, node, indices) for node in flow.nodes)
    if count:
        flow = analyse(gm)
    return count + sum(lift(flow, node, indices) for node in flow.nodes)


def lift(flow: Dataflow, node: fx.Node, indices: set[fx.Node]) -> bool:
    """Make a call on the nodes and gather its result; False where that is not possible."""
    if node not in flow.axes or not is_pure(node) or gathered(flow, node) is not None or node.op == "call_module":
        return False
    sources = _sources(flow, node)
    index = next(iter(sources.values())).index if sources else None
    if index is None or index not in indices or any(gather.index is not index for gather in sources.values()):
        return False
    replaced = {operand: gather.x for operand, gather in sources.items()}
    if not commutes_with_gather(flow, node, replaced):
        return False
    graph = flow.module.graph
    with graph.inserting_before(node):
        early = graph.node_copy(node, lambda operand: replaced.get(operand, operand))
        late = graph.call_method("index_select", (early, 0, index))
    flow.substitute(node, late)
    _describe(flow, early)
    return True


def _sources(flow: Dataflow, node: fx.Node) -> dict[fx.Node, Gathered]:
    """The operands with rows, if all are gathered; empty if one is not, or if an operand is a row count."""
    sources: dict[fx.Node, Gathered] = {}
    for operand in node.all_input_nodes:
        if operand not in flow.axes:
            if operand.op != "get_attr":
                return {}
            continue
        if None not in flow.axes[operand].sizes:
            continue
        gather = gathered(flow, operand)
        if gather is None:
            return {}
        sources[operand] = gather
    return sources


def _describe(flow: Dataflow, node: fx.Node) -> None:
    """Compute the values and axes of a node that was added after the analysis."""
    call = Operation(node, node, None, flow.values)
    flow.values[node] = (call.run({}, 0), call.run({}, 1))
    axes = axes_of(flow.values[node])
    assert axes is not None
    flow.axes[node] = axes


def take_apart(flow: Dataflow, node: fx.Node, indices: set[fx.Node]) -> bool:
    """Make a linear layer of joined values the sum of linear layers; False where no part is gathered."""
    if node.target is not F.linear or not isinstance(node.args[0], fx.Node) or len(node.args) < 2:
        return False
    parts = _parts(flow, node.args[0])
    if len(parts) < 2 or not any(_is_gathered(flow, part.node, indices) for part in parts):
        return False
    graph, weight = node.graph, node.args[1]
    bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    total: fx.Node | None = None
    with graph.inserting_before(node):
        for part in parts:
            value = part.node
            for key in part.picked:
                value = graph.call_function(operator.getitem, (value, key))  # type: ignore[arg-type]
            columns = weight
            if part.start or part.width != flow.axes[weight].sizes[1]:  # type: ignore[index]
                columns = graph.call_function(torch.narrow, (weight, 1, part.start, part.width))
            product = graph.call_function(F.linear, (value, columns, bias))
            bias = None
            join = operator.sub if part.negative else operator.add
            total = product if total is None else graph.call_function(join, (total, product))
    assert total is not None
    total.meta = dict(node.meta)
    node.replace_all_uses_with(total)
    return True


@dataclass(frozen=True)
class Part:
    """The value in a range of a linear layer's input channels; ``picked`` are the keys applied to it first."""

    node: fx.Node
    start: int
    width: int
    negative: bool = False
    picked: tuple[object, ...] = ()


def _parts(flow: Dataflow, node: fx.Node, start: int = 0, picked: tuple[object, ...] = ()) -> list[Part]:
    """The parts that a value was joined from: by concatenation of channels, sums and differences."""
    width = flow.axes[node].sizes[-1] if node in flow.axes and flow.axes[node].sizes else None
    if width is None:
        return []
    whole = [Part(node, start, width, picked=picked)]
    if node.target is operator.getitem and not picked and _takes_from_rows(flow, node):
        return _parts(flow, node.args[0], start, (node.args[1],)) or whole  # type: ignore[arg-type]
    last = len(flow.axes[node].sizes) - 1
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if node.target is torch.cat and dim in (-1, last) and isinstance(node.args[0], list | tuple):
        parts: list[Part] = []
        for operand in node.args[0]:
            inner = _parts(flow, operand, start, picked)  # type: ignore[arg-type]
            if not inner:
                return whole
            parts += inner
            start += flow.axes[operand].sizes[-1]  # type: ignore[index,operator]
        return parts
    if node.target in (*SUMS, *DIFFERENCES) and len(node.args) == 2 and not node.kwargs and not picked:
        first, second = node.args
        same_rows = all(isinstance(n, fx.Node) and n in flow.axes and flow.axes[n].pairs == flow.axes[node].pairs
                   for n in node.args)  # fmt: skip
        minus = node.target in DIFFERENCES
        return [Part(first, start, width), Part(second, start, width, minus)] if same_rows else whole  # type: ignore[arg-type]
    return whole


def _takes_from_rows(flow: Dataflow, node: fx.Node) -> bool:
    """Whether a node is ``x[:, i]`` of a value with three axes: one element of the axis after the rows."""
    source, key = node.args
    if not isinstance(source, fx.Node) or source not in flow.axes or len(flow.axes[source].sizes) != 3:
        return False
    return isinstance(key, tuple) and len(key) == 2 and key[0] == slice(None) and isinstance(key[1], int)


def _is_gathered(flow: Dataflow, node: fx.Node, indices: set[fx.Node]) -> bool:
    gather = gathered(flow, node)
    return gather is not None and gather.index in indices
