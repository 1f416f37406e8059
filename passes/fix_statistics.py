"""Estimated statistics become torch operations on the channels that are kept, so that later passes are exact again.

After compaction, this pass replaces the functions of ``compiled.statistics`` by the torch operations they stand for.
It records the statistics that lost channels, for the report.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult
from torch.nn import functional as F

from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.channels.positions import Axes
from upscale_fx.channels.relations.statistics import Normalisation, Statistic
from upscale_fx.compiled.module import CompiledGNN, note, record_of
from upscale_fx.compiled.record import KeptChannels
from upscale_fx.compiled.statistics import approximate_layer_norm, approximate_normalize, approximate_statistic
from upscale_fx.passes.base import edited

_FUNCTIONS = {approximate_layer_norm, approximate_normalize, approximate_statistic}


@dataclass(frozen=True)
class FixStatistics:
    """Fix the channels that statistics read; exact."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited(gm, fix_statistics)


def fix_statistics(gm: CompiledGNN) -> int:
    """Replace the functions of ``compiled.statistics`` by what they stand for; returns how many."""
    if not any(node.target in _FUNCTIONS for node in gm.graph.nodes if node.op == "call_function"):
        return 0
    flow = analyse(gm)
    known = dict(record_of(gm).estimates)
    statistics = {
        node: relation for node, relation in flow.relations.items() if isinstance(relation, Statistic | Normalisation)
    }
    for node, relation in statistics.items():
        _note(known, node, _width(flow.axes[relation.source], relation.axes))
        if isinstance(relation, Normalisation) and node.target is approximate_layer_norm:
            _fix_layer_norm(node, relation, flow)
        else:
            _fix(node)
    if known:
        note(gm, estimates=known)
    return len(statistics)


def _width(axes: Axes, reduced: tuple[int, ...]) -> int:
    count = 1
    for axis in reduced:
        count *= axes.shape[axis]
    return count


def _note(known: dict[str, KeptChannels], node: fx.Node, kept: int) -> None:
    """Record how many channels a statistic read and reads now, if these are fewer."""
    name, width = node.meta["estimate"]
    if kept < width:
        known[name] = KeptChannels(width, kept)


def _fix(node: fx.Node) -> None:
    """Replace a function of ``compiled.statistics`` by the operations it consists of."""
    graph, before = node.graph, set(node.graph.nodes)
    with graph.inserting_before(node):
        source, *rest = node.args
        tracer = fx.proxy.GraphAppendingTracer(graph)
        result: Any = node.target(fx.Proxy(source, tracer), *rest)  # type: ignore[operator, arg-type]
    for added in graph.nodes:
        if added not in before:
            added.meta = dict(node.meta)
    node.replace_all_uses_with(result.node)


def _fix_layer_norm(node: fx.Node, relation: Normalisation, flow: Dataflow) -> None:
    """Make it ``F.layer_norm``, with weight and bias inside again if they cover all channels of the statistic."""
    source, _, eps = node.args
    shape = flow.axes[node].shape[min(relation.axes) :]
    parameters: list[fx.Node | None] = []
    last = node
    for function in (operator.mul, operator.add):
        user, parameter = _applied(last, function)
        if user is None or parameter is None or flow.axes[parameter].sizes != shape:
            parameters.append(None)
            continue
        if node < parameter:  # it was read only after the norm
            node.prepend(parameter)
        parameters.append(parameter)
        last = user
    if last is not node:
        last.replace_all_uses_with(node)
    node.target, node.args = F.layer_norm, (source, shape, *parameters, eps)


def _applied(node: fx.Node, function: Any) -> tuple[fx.Node | None, fx.Node | None]:
    """The only reader of a value and the parameter that it applies; None twice if there is no such pair."""
    if len(node.users) != 1:
        return None, None
    user = next(iter(node.users))
    if user.target is not function or len(user.args) != 2 or user.args[0] is not node:
        return None, None
    parameter = user.args[1]
    is_parameter = isinstance(parameter, fx.Node) and parameter.op == "get_attr"
    return (user, parameter) if is_parameter else (None, None)  # type: ignore[return-value]
