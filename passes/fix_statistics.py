"""Estimated statistics become plain operations on the channels that are left, so that later passes are exact again.

What compaction left of the functions of ``compiled.statistics`` is replaced by the torch operations they stand
for. Those that lost channels are entered into the record of the graph, for the report.
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
    """Write down over which channels statistics are taken from now on; exact."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited(gm, fix_statistics)


def fix_statistics(gm: CompiledGNN) -> int:
    """Replace our functions by what they stand for; returns how many."""
    if not any(node.target in _FUNCTIONS for node in gm.graph.nodes if node.op == "call_function"):
        return 0
    flow = analyse(gm)
    known = dict(record_of(gm).estimates)
    found = {node: one for node, one in flow.relations.items() if isinstance(one, Statistic | Normalisation)}
    for node, relation in found.items():
        _note(known, node, _width(flow.axes[relation.source], relation.axes))
        if isinstance(relation, Normalisation) and node.target is approximate_layer_norm:
            _fix_layer_norm(node, relation, flow)
        else:
            _fix(node)
    if known:
        note(gm, estimates=known)
    return len(found)


def _width(axes: Axes, reduced: tuple[int, ...]) -> int:
    count = 1
    for axis in reduced:
        count *= axes.shape[axis]
    return count


def _note(known: dict[str, KeptChannels], node: fx.Node, kept: int) -> None:
    """Enter how many channels were and are left, if these are fewer."""
    name, width = node.meta["estimate"]
    if kept < width:
        known[name] = KeptChannels(width, kept)


def _fix(node: fx.Node) -> None:
    """Replace a function of ours by the operations it consists of."""
    graph, before = node.graph, set(node.graph.nodes)
    with graph.inserting_before(node):
        source, *rest = node.args
        tracer = fx.proxy.GraphAppendingTracer(graph)
        found: Any = node.target(fx.Proxy(source, tracer), *rest)  # type: ignore[operator, arg-type]
    for made in graph.nodes:
        if made not in before:
            made.meta = dict(node.meta)
    node.replace_all_uses_with(found.node)


def _fix_layer_norm(node: fx.Node, relation: Normalisation, flow: Dataflow) -> None:
    """``F.layer_norm``, which takes weight and bias back if all its channels are read."""
    source, _, eps = node.args
    shape = flow.axes[node].shape[min(relation.axes) :]
    parameters: list[fx.Node | None] = []
    last = node
    for function in (operator.mul, operator.add):
        user, parameter = _applied(last, function)
        if user is None or parameter is None or flow.axes[parameter].sizes != shape:
            parameters.append(None)
            continue
        if node < parameter:  # read later so far
            node.prepend(parameter)
        parameters.append(parameter)
        last = user
    if last is not node:
        last.replace_all_uses_with(node)
    node.target, node.args = F.layer_norm, (source, shape, *parameters, eps)


def _applied(node: fx.Node, function: Any) -> tuple[fx.Node | None, fx.Node | None]:
    """The only reader of a value and the parameter it applies to it, if it does that."""
    if len(node.users) != 1:
        return None, None
    user = next(iter(node.users))
    if user.target is not function or len(user.args) != 2 or user.args[0] is not node:
        return None, None
    parameter = user.args[1]
    plain = isinstance(parameter, fx.Node) and parameter.op == "get_attr"
    return (user, parameter) if plain else (None, None)  # type: ignore[return-value]
