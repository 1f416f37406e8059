"""Sums of linear layers accumulate in one tensor, and the first product adds all biases.

The terms of a sum are linear layers, biases and the rest. The first layer adds all biases, the other layers multiply
into its result (``addmm``), and the rest is added to that, so that memory holds no term beside the total.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult
from torch.nn import functional as F

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.linear_layers import Layer, layer_of
from upscale_fx.compiled import functions
from upscale_fx.compiled.calls import SUMS
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.passes.base import edited_flow


@dataclass(frozen=True)
class MergeSums:
    """Accumulate sums of linear layers in one tensor; exact."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited_flow(gm, merge_sums)


def merge_sums(flow: Dataflow) -> int:
    """Accumulate all sums that have a linear layer in them; returns how many."""
    return sum(merge(flow, node) for node in reversed(flow.nodes))


@dataclass
class Terms:
    """The terms of a sum ``[N, C]``."""

    layers: list[Layer] = field(default_factory=list)
    biases: list[fx.Node] = field(default_factory=list)
    rest: list[fx.Node] = field(default_factory=list)
    sums: set[fx.Node] = field(default_factory=set)


def terms_of(flow: Dataflow, node: fx.Node) -> Terms:
    """The terms of a sum, through the sums that only it reads."""
    terms = Terms()
    _collect(flow, node, terms, flow.axes[node].pairs)
    return terms


def _collect(flow: Dataflow, node: fx.Node, terms: Terms, pairs: tuple[tuple[int, int], ...]) -> None:
    terms.sums.add(node)
    for operand in node.args:
        assert isinstance(operand, fx.Node)
        layer = layer_of(flow, operand)
        alone = len(operand.users) == 1
        if flow.axes[operand].pairs != pairs:
            terms.biases.append(operand)
        elif alone and _is_sum(flow, operand):
            _collect(flow, operand, terms, pairs)
        elif alone and layer is not None:
            terms.layers.append(layer)
        else:
            terms.rest.append(operand)


def _is_sum(flow: Dataflow, node: fx.Node) -> bool:
    """Whether a node adds two values ``[N, C]``, or a value and a parameter ``[C]``."""
    if node.target not in SUMS or len(node.args) != 2 or node.kwargs or node not in flow.axes:
        return False
    result = flow.axes[node]
    if len(result.sizes) != 2 or result.sizes[0] is not None or result.sizes[1] is None:
        return False
    for operand in node.args:
        if not isinstance(operand, fx.Node) or operand not in flow.axes:
            return False
        if flow.values[operand][0].dtype != flow.values[node][0].dtype:  # type: ignore[attr-defined]
            return False
        axes = flow.axes[operand]
        is_bias = operand.op == "get_attr" and axes.sizes == (result.sizes[1],)
        if axes.pairs != result.pairs and not is_bias:
            return False
    return True


def merge(flow: Dataflow, node: fx.Node) -> bool:
    """Accumulate a sum that has a linear layer in it, unless it is a term of another sum."""
    if not node.users or not _is_sum(flow, node):
        return False
    if len(node.users) == 1 and _is_sum(flow, user := next(iter(node.users))) and user.args[0] is not user.args[1]:
        return False
    terms = terms_of(flow, node)
    if not terms.layers or len(terms.layers) + len(terms.biases) + len(terms.rest) < 2:
        return False
    graph = node.graph
    first, *others = terms.layers
    biases = [layer.bias for layer in terms.layers if layer.bias is not None] + terms.biases
    with graph.inserting_before(node):
        bias: fx.Node | None = None
        for term in biases:
            bias = term if bias is None else graph.call_function(operator.add, (bias, term))
        total = graph.call_function(F.linear, (first.x, first.weight, bias))
        total.meta = dict(node.meta)
        for layer in others:
            total = graph.call_function(functions.add_linear, (total, layer.x, layer.weight))
            total.meta = dict(node.meta)
        for term in terms.rest:
            total = graph.call_function(functions.add_into, (total, term))
            total.meta = dict(node.meta)
    node.replace_all_uses_with(total)
    return True
