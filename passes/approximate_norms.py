"""Norms over channels become estimates: functions that let the channels go which nobody but a statistic needs.

Layer norm, L2 normalisation, and the statistics that other norms are made of (see ``analysis.norms``) are replaced
by the functions of :mod:`upscale_fx.compiled.statistics`, which compute the same until compaction removes channels.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult
from torch.nn import functional as F

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.norms import FoundNorm, FoundStatistic, find_norms, find_statistics
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.statistics import approximate_layer_norm, approximate_normalize, approximate_statistic
from upscale_fx.passes.base import edited_flow


@dataclass(frozen=True)
class ApproximateNorms:
    """Let compaction prune through norms over channels; by itself exact."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited_flow(gm, approximate_norms)


def approximate_norms(flow: Dataflow) -> int:
    """Replace norms, and the statistics that others are made of; returns how many."""
    norms = find_norms(flow)
    statistics = find_statistics(flow, norms)
    for norm in norms:
        _replace_norm(norm)
    for statistic in statistics:
        _replace_statistic(statistic)
    return len(norms) + len(statistics)


def _replace_norm(found: FoundNorm) -> None:
    """Take weight and bias out of a norm, so that statistics may read channels that they do not."""
    node, graph = found.node, found.node.graph
    _remember(node, node.name, found.width)
    if node.target is F.normalize:
        _become(node, approximate_normalize, (found.source, found.eps, 1.0))
        return
    _become(node, approximate_layer_norm, (found.source, found.axes, found.eps))
    last = node
    for function, parameter in ((operator.mul, found.weight), (operator.add, found.bias)):
        if parameter is None:
            continue
        with graph.inserting_after(last):
            made = graph.call_function(function, (last, parameter))
        made.meta = {key: value for key, value in node.meta.items() if key != "estimate"}
        last.replace_all_uses_with(made)
        made.args = (last, parameter)  # itself a reader, so replaced too
        last = made


def _replace_statistic(found: FoundStatistic) -> None:
    """Reduce channels before rows are aggregated, of the value itself and not of its squares."""
    node, graph = found.node, found.node.graph
    arguments = (found.source, found.how, found.dims, found.keepdim, found.share)
    if not found.rows:
        _remember(node, node.name, found.width)
        _become(node, approximate_statistic, arguments)
        return
    first = found.rows[-1]
    with graph.inserting_before(first):
        statistic = graph.call_function(approximate_statistic, arguments)
    statistic.meta = dict(node.meta)
    _remember(statistic, node.name, found.width)
    first.replace_input_with(first.args[0] if first.args else first.kwargs["src"], statistic)  # type: ignore[arg-type]
    node.replace_all_uses_with(found.rows[0])


def _become(node: fx.Node, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    node.op, node.target = "call_function", function
    node.args, node.kwargs = arguments, {}


def _remember(node: fx.Node, name: str, width: int) -> None:
    """Note what is estimated, where, and of how many channels; what an earlier estimate noted stays."""
    place = ", ".join(part for part in (node.meta.get("module"), node.meta.get("source")) if part)
    node.meta.setdefault("estimate", (f"{name} ({place})", width))
