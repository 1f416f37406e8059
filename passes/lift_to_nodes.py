"""Work once per node instead of once per edge: ``f(x[index])`` becomes ``f(x)[index]``.

(1) A call whose only operands with rows are gathered by one index of the edges, and that treats every row by itself, is
made on the nodes. (2) A linear layer of a concatenation ``[x_i, x_j, e]``, or of a sum or difference, is the sum of the
linear layers of its parts, which (1) then takes to the nodes. There are far fewer nodes than edges.
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
    """Take work per edge to the nodes where it gives the same; exact."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited(gm, lift_to_nodes)


def lift_to_nodes(gm: CompiledGNN) -> int:
    """Take work to the nodes in place; returns how many calls changed."""
    edges = sorted_edges(gm.graph)
    if not edges:
        return 0
    flow = analyse(gm)
    indices = {user for found in edges.values() for user in found.order.users}
    count = sum(take_apart(flow, node, indices) for node in flow.nodes)
    if count:
        flow = analyse(gm)
    return count + sum(lift(flow, node, indices) for node in flow.nodes)


def lift(flow: Dataflow, node: fx.Node, indices: set[fx.Node]) -> bool:
    """Make a call on the nodes and gather its result; whether that was possible."""
    if node not in flow.axes or not is_pure(node) or gathered(flow, node) is not None or node.op == "call_module":
        return False
    sources = _sources(flow, node)
    index = next(iter(sources.values())).index if sources else None
    if index is None or index not in indices or any(found.index is not index for found in sources.values()):
        return False
    replaced = {operand: found.x for operand, found in sources.items()}
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
    """The operands with rows, if all are gathered; nothing if any is not, or has its rows elsewhere."""
    found: dict[fx.Node, Gathered] = {}
    for operand in node.all_input_nodes:
        if operand not in flow.axes:
            if operand.op != "get_attr":
                return {}  # a row count
            continue
        if None not in flow.axes[operand].sizes:
            continue
        one = gathered(flow, operand)
        if one is None:
            return {}
        found[operand] = one
    return found


def _describe(flow: Dataflow, node: fx.Node) -> None:
    """Values and axes of a node put into a graph that has been analysed."""
    call = Operation(node, node, None, flow.values)
    flow.values[node] = (call.run({}, 0), call.run({}, 1))
    axes = axes_of(flow.values[node])
    assert axes is not None
    flow.axes[node] = axes


def take_apart(flow: Dataflow, node: fx.Node, indices: set[fx.Node]) -> bool:
    """Make a linear layer of joined values the sum of linear layers; whether any part is gathered."""
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
            own = part.node
            for key in part.picked:
                own = graph.call_function(operator.getitem, (own, key))  # type: ignore[arg-type]
            columns = weight
            if part.start or part.width != flow.axes[weight].sizes[1]:  # type: ignore[index]
                columns = graph.call_function(torch.narrow, (weight, 1, part.start, part.width))
            product = graph.call_function(F.linear, (own, columns, bias))
            bias = None
            join = operator.sub if part.negative else operator.add
            total = product if total is None else graph.call_function(join, (total, product))
    assert total is not None
    total.meta = dict(node.meta)
    node.replace_all_uses_with(total)
    return True


@dataclass(frozen=True)
class Part:
    """What a range of a linear layer's inputs holds: a value, from which ``picked`` takes elements."""

    node: fx.Node
    start: int
    width: int
    negative: bool = False
    picked: tuple[object, ...] = ()


def _parts(flow: Dataflow, node: fx.Node, start: int = 0, picked: tuple[object, ...] = ()) -> list[Part]:
    """A value taken apart where it is joined: concatenations of channels, sums and differences."""
    width = flow.axes[node].sizes[-1] if node in flow.axes and flow.axes[node].sizes else None
    if width is None:
        return []
    whole = [Part(node, start, width, picked=picked)]
    if node.target is operator.getitem and not picked and _takes_from_rows(flow, node):
        return _parts(flow, node.args[0], start, (node.args[1],)) or whole  # type: ignore[arg-type]
    last = len(flow.axes[node].sizes) - 1
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if node.target is torch.cat and dim in (-1, last) and isinstance(node.args[0], list | tuple):
        found: list[Part] = []
        for operand in node.args[0]:
            inner = _parts(flow, operand, start, picked)  # type: ignore[arg-type]
            if not inner:
                return whole
            found += inner
            start += flow.axes[operand].sizes[-1]  # type: ignore[index,operator]
        return found
    if node.target in (*SUMS, *DIFFERENCES) and len(node.args) == 2 and not node.kwargs and not picked:
        one, other = node.args
        same = all(isinstance(n, fx.Node) and n in flow.axes and flow.axes[n].pairs == flow.axes[node].pairs
                   for n in node.args)  # fmt: skip
        minus = node.target in DIFFERENCES
        return [Part(one, start, width), Part(other, start, width, minus)] if same else whole  # type: ignore[arg-type]
    return whole


def _takes_from_rows(flow: Dataflow, node: fx.Node) -> bool:
    """``x[:, i]``: one element of the axis after the rows, and the last axis is kept."""
    source, key = node.args
    if not isinstance(source, fx.Node) or source not in flow.axes or len(flow.axes[source].sizes) != 3:
        return False
    return isinstance(key, tuple) and len(key) == 2 and key[0] == slice(None) and isinstance(key[1], int)


def _is_gathered(flow: Dataflow, node: fx.Node, indices: set[fx.Node]) -> bool:
    found = gathered(flow, node)
    return found is not None and found.index in indices
