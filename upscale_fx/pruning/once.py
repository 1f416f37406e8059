"""Pruning a traced graph once: mask, compact, optimise, and record it for the report."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from upscale_fx.analysis.dataflow import analyse
from upscale_fx.compacting.rewrite.ties import untied
from upscale_fx.compiled.module import CompiledGNN, note, stored_tensors, unfused
from upscale_fx.compiled.progress import stage, stages
from upscale_fx.compiled.record import PruningRecord
from upscale_fx.errors import NothingToPruneError, warn
from upscale_fx.masking.consumers.survey import survey
from upscale_fx.masking.options import MaskOptions
from upscale_fx.masking.plan import Plan, make_plan
from upscale_fx.masking.removals import nothing_to_prune
from upscale_fx.passes.base import Callback
from upscale_fx.pruning.compaction import CompactedCost, compacted
from upscale_fx.pruning.optimization import optimized
from upscale_fx.reports.report import record_pruning, report, warn_of_leftovers
from upscale_fx.tracing.missing_types import recheck_types
from upscale_fx.tracing.trace import trace_model


@dataclass(frozen=True, kw_only=True)
class CompactOptions:
    """How a graph is compacted, see :func:`upscale_fx.compact`, and whether it is fused then."""

    callback: Callback | None = None
    approximate_norms: bool = False
    fuse: bool = True


def plan_of(traced: CompiledGNN, options: MaskOptions) -> Plan:
    """The plan of which channels every consumer of a traced graph stops reading."""
    flow = analyse(traced)
    return make_plan(flow, survey(flow), options, CompactedCost(traced))


def compact_once(traced: CompiledGNN, options: CompactOptions) -> CompiledGNN:
    """Compact a traced graph by the zeros in its weights, with a record of the graph before."""
    flow = analyse(traced)
    return compact_recorded(traced, record_pruning(traced, flow, survey(flow), None), options)


def compact_recorded(traced: CompiledGNN, history: PruningRecord, options: CompactOptions) -> CompiledGNN:
    """Compact a traced graph and attach ``history``; warns of channels that it could not remove."""
    compact = compacted(traced, options.callback, options.approximate_norms)
    note(compact, pruning=history)
    _warn_of_untied(traced, compact)
    recheck_types(traced, compact)
    warn_of_leftovers(report(compact))
    return compact


def _warn_of_untied(traced: CompiledGNN, compact: CompiledGNN) -> None:
    for names in untied(traced, compact):
        warn(
            f"{' and '.join(names)} are one parameter in the model, but not in the compiled one, because other entries "
            f"of it are kept in each place: outputs are those of the masked model, but training changes them apart. "
            f"To keep them one, name the layers that read them in ignore="
        )


def prune_once(model: nn.Module, options: MaskOptions, compact_options: CompactOptions) -> CompiledGNN:
    """Mask, compact and optimise a traced graph (or a model) by the amount or the budget of the options.

    Raises:
        NothingToPruneError: masks remove channels, and the result is as large as before.
    """
    with stages("prune", shown=options.progress):
        traced = copy.deepcopy(unfused(model)) if isinstance(model, CompiledGNN) else trace_model(model)
        return _pruned(traced, options, compact_options)


def _pruned(traced: CompiledGNN, options: MaskOptions, compact_options: CompactOptions) -> CompiledGNN:
    stage("analysing")
    before = {name: value.shape for name, value in stored_tensors(traced).items()}
    flow = analyse(traced)
    consumers = survey(flow)
    plan = make_plan(flow, consumers, options, CompactedCost(traced, compact_options.approximate_norms))
    plan.apply(traced)
    note(traced, compacted=False)
    history = record_pruning(traced, flow, consumers, plan.removals, plan.chosen, plan.notes)
    pruned = compact_recorded(traced, history, compact_options)
    after = {name: value.shape for name, value in stored_tensors(pruned).items()}
    if any(removal.removed.any() for removal in plan.removals) and before == after:
        raise NothingToPruneError(nothing_to_prune(plan.removals, consumers.refused))
    return optimized(unfused(pruned), compact_options.callback, fuse=compact_options.fuse)
