"""Pruning a traced graph once: what masks choose is made real, and a report says what became of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from upscale_fx.analysis.dataflow import analyse
from upscale_fx.compiled.module import CompiledGNN, unfused
from upscale_fx.errors import NothingToPruneError
from upscale_fx.masking.consumers.survey import survey
from upscale_fx.masking.options import MaskOptions
from upscale_fx.masking.plan import make_plan
from upscale_fx.masking.removals import nothing_to_prune
from upscale_fx.passes.base import Callback
from upscale_fx.pruning.compaction import CompactedCost, compacted
from upscale_fx.pruning.optimization import optimized
from upscale_fx.reports.report import record, report, warn_of_leftovers
from upscale_fx.tracing.trace import trace_model


def compact_recorded(
    traced: CompiledGNN, history: Mapping[str, object], callback: Callback | None, approximate_norms: bool
) -> CompiledGNN:
    """Compact a traced graph, with a report of what it was before; warns of what it could not remove."""
    found = compacted(traced, callback, approximate_norms)
    found.meta["report"] = history
    warn_of_leftovers(report(found))
    return found


def prune_once(
    model: nn.Module,
    amount: float | Mapping[str, float] | None,
    options: MaskOptions,
    callback: Callback | None,
    approximate_norms: bool,
) -> CompiledGNN:
    """Mask, compact and optimise a traced graph (or a model) by one amount, or by the budget of the options.

    Raises:
        NothingToPruneError: something was asked to be removed, and the result is as large as before.
    """
    traced = copy.deepcopy(unfused(model)) if isinstance(model, CompiledGNN) else trace_model(model)
    options = replace(options, amount=amount)
    before = {name: value.shape for name, value in traced.state_dict().items()}
    flow = analyse(traced)
    found = survey(flow)
    plan = make_plan(flow, found, options, CompactedCost(traced, approximate_norms))
    plan.apply(traced)
    traced.meta.pop("compacted", None)
    pruned = compact_recorded(
        traced, record(traced, flow, found, plan.removals, plan.chosen, plan.notes), callback, approximate_norms
    )
    after = {name: value.shape for name, value in pruned.state_dict().items()}
    if any(removal.removed.any() for removal in plan.removals) and before == after:
        raise NothingToPruneError(nothing_to_prune(plan.removals, found.refused))
    return optimized(unfused(pruned), callback, False, None)
