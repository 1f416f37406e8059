"""Norms over channels become estimates, so that compaction can remove channels that only a statistic reads.

The pass replaces layer norm, L2 normalisation, and the statistics inside other norms (see ``analysis.norms``) by the
functions of :mod:`upscale_fx.compiled.statistics`, which compute the same until compaction removes channels.
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
    """Replace norms, and the statistics inside other norms; returns how many."""
    norms = find_norms(flow)
    statistics = find_statistics(flow, norms)
    for norm in norms:
        _replace_norm(norm)
    for statistic in statistics:
        _replace_statistic(statistic)
    return len(norms) + len(statistics)


def _replace_norm(norm: FoundNorm) -> None:
    """Move weight and bias out of a norm, so that its statistics can read channels that weight and bias do not."""
    node, graph = norm.node, norm.node.graph
    _remember(node, node.name, norm.width)
    if node.target is F.normalize:
        _become(node, approximate_normalize, (norm.source, norm.eps, 1.0))
        return
    _become(node, approximate_layer_norm, (norm.source, norm.axes, norm.eps))
    last = node
    for function, parameter in ((operator.mul, norm.weight), (operator.add, norm.bias)):
        if parameter is None:
            continue
        with graph.inserting_after(last):
            applied = graph.call_function(function, (last, parameter))
        applied.meta = {key: value for key, value in node.meta.items() if key != "estimate"}
        last.replace_all_uses_with(applied)
        applied.args = (last, parameter)  # the line above replaced its own operand too
        last = applied


def _replace_statistic(reduction: FoundStatistic) -> None:
    """Put the statistic before the rows are aggregated; it reads the value itself, not its squares."""
    node, graph = reduction.node, reduction.node.graph
    arguments = (reduction.source, reduction.how, reduction.dims, reduction.keepdim, reduction.share)
    if not reduction.rows:
        _remember(node, node.name, reduction.width)
        _become(node, approximate_statistic, arguments)
        return
    aggregation = reduction.rows[-1]
    with graph.inserting_before(aggregation):
        estimate = graph.call_function(approximate_statistic, arguments)
    estimate.meta = dict(node.meta)
    _remember(estimate, node.name, reduction.width)
    aggregation.replace_input_with(aggregation.args[0] if aggregation.args else aggregation.kwargs["src"], estimate)  # type: ignore[arg-type]
    node.replace_all_uses_with(reduction.rows[0])


def _become(node: fx.Node, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    node.op, node.target = "call_function", function
    node.args, node.kwargs = arguments, {}


def _remember(node: fx.Node, name: str, width: int) -> None:
    """Record which norm is estimated, where, and over how many channels; an earlier record stays."""
    place = ", ".join(part for part in (node.meta.get("module"), node.meta.get("source")) if part)
    node.meta.setdefault("estimate", (f"{name} ({place})", width))
