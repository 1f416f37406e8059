"""Chooses the channels that every consumer loses so that the model meets a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from upscale_fx.errors import NothingToPruneError, PatternError
from upscale_fx.masking.allocation.allocate import Allocation
from upscale_fx.masking.allocation.budget import Budget
from upscale_fx.masking.allocation.call_rows import CallRows, rows_in_call
from upscale_fx.masking.allocation.cost import Measured
from upscale_fx.masking.calibrated import Calibrated
from upscale_fx.masking.consumers.pools import Pool, Removal, shared_pools
from upscale_fx.masking.criteria import OBS, resolve_criterion
from upscale_fx.masking.options import MaskOptions
from upscale_fx.masking.reconstruction.errors import energies
from upscale_fx.masking.removals import nothing_to_prune, plan_removals


def spend_budget(calibrated: Calibrated, budget: Budget, measured: Measured) -> list[Removal]:
    """Choose the channels that every consumer loses for a budget.

    Args:
        calibrated: the analysed graph, with calibration data or without.
        budget: the limit on the cost of the model.
        measured: computes the cost of the compacted model from the removed channels.

    Raises:
        AmountError: the budget is less than the least possible cost.
        NothingToPruneError: no channel can be removed.
        PatternError: a criterion other than OBS, or multiply-adds without calibration data.
    """
    options, root = calibrated.options, calibrated.flow.module
    _check_criterion(options)
    budget = replace(budget, sharing="always") if options.constrained else budget
    survey, allowed = calibrated.survey, calibrated.allowed
    removals = plan_removals(survey, root, replace(options, amount=0.0, budget=None), allowed=allowed)
    if not any(removal.eligible.any() for removal in removals):
        raise NothingToPruneError(nothing_to_prune(removals, survey.refused))
    study = calibrated.study(removals)
    pools = shared_pools(removals, energies(removals, root), partly=True)
    if calibrated.data is not None:
        study.observe()
        _rank_within_heads(calibrated, removals, pools)
    rows = _rows_of_call(calibrated, budget)
    Allocation(study, removals, pools, budget, OBS().ridge, rows).spend(measured)
    return removals


def _check_criterion(options: MaskOptions) -> None:
    criterion = resolve_criterion(options.criterion, options.calibration is not None)
    if options.criterion is not None and not isinstance(criterion, OBS):
        raise PatternError(f"a budget is spent by reconstruction errors (criterion 'obs'), not by {criterion!r}")


def _rank_within_heads(calibrated: Calibrated, removals: Sequence[Removal], pools: Sequence[Pool]) -> None:
    """Set the scores by which channels of different heads are paired, if there are heads."""
    if any(len(pool.blocks) > 1 for pool in pools):
        for pool in pools:
            pool.amount = 1.0
        calibrated.rank_by_reconstruction(OBS(), removals, pools, to_the_end=True)


def _rows_of_call(calibrated: Calibrated, budget: Budget) -> CallRows:
    """The row counts of a call on the first batch, if multiply-adds are counted."""
    if budget.unit != "macs":
        return CallRows()
    if calibrated.data is None:
        raise PatternError("Budget(macs=...) counts the multiply-adds of a call: pass calibration=(x, edge_index)")
    return rows_in_call(calibrated.flow, next(iter(calibrated.data)))
