"""Which channels each consumer stops reading: from amounts, eligible channels, scores and pools, with reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import nn

from upscale_fx.channels.positions import Mask, Scores
from upscale_fx.compiled.module import CompiledGNN, record_of
from upscale_fx.errors import NothingToPruneError
from upscale_fx.masking.amounts import amounts_of, ignored_names
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.masking.consumers.pools import Pool, Removal, own_pools, select, select_global, shared_pools
from upscale_fx.masking.consumers.survey import Survey, Unmaskable
from upscale_fx.masking.options import MaskOptions
from upscale_fx.masking.weight_scores import weight_criterion, weight_scores

#: Sets the scores of all units of the pools; the removals hold the eligible channels.
Ranking = Callable[[Sequence[Removal], Sequence[Pool]], None]


def plan_removals(
    found: Survey,
    root: nn.Module,
    options: MaskOptions,
    ranking: Ranking | None = None,
    allowed: Mapping[str, Mask] | None = None,
) -> list[Removal]:
    """Choose the channels that every consumer of a traced graph loses.

    ``ranking`` replaces the scores by weights. ``allowed`` replaces ``inputs``: by the names of consumers, it holds
    the eligible channels.

    Raises:
        AmountError: an amount is not a number in [0, 1).
        PatternError: unknown criterion or scope, or a pattern that matches no consumer.
        NothingToPruneError: an amount is above 0 and no channel can be removed.
    """
    amounts = amounts_of(found.consumers, options.amount if options.amount is not None else 0.0)
    removals = _empty_removals(found.consumers, root, options, amounts, allowed)
    scores = _scores(removals, root, options)
    pools = shared_pools(removals, scores) if options.constrained else own_pools(removals, scores)
    if ranking is not None:
        ranking(removals, pools)
    _remove_lowest(removals, pools, options)
    _explain(removals)
    _check_anything_removed(removals, found.refused, options)
    return removals


def _empty_removals(
    consumers: Sequence[Consumer],
    root: nn.Module,
    options: MaskOptions,
    amounts: Mapping[str, float],
    allowed: Mapping[str, Mask] | None,
) -> list[Removal]:
    """One removal for each consumer, with the eligible channels or the reason why there are none, and none removed."""
    ignored = ignored_names(consumers, options.ignore)
    compacted = isinstance(root, CompiledGNN) and record_of(root).compacted
    removals = []
    for consumer in consumers:
        eligible, reason = _eligible(consumer, options, allowed)
        if compacted:  # its zero columns are padding of heads or wider reads, not channels of the model
            eligible &= consumer.reads(root)
        if not reason and not eligible.any():
            reason = "all its weights are zero already"
        if consumer.name in ignored:
            reason, eligible = "ignored", np.zeros(consumer.count, dtype=bool)
        removed = np.zeros(consumer.count, dtype=bool)
        removals.append(Removal(consumer, eligible, amounts[consumer.name], removed, reason))
    return removals


def _eligible(consumer: Consumer, options: MaskOptions, allowed: Mapping[str, Mask] | None) -> tuple[Mask, str]:
    """The eligible channels ``[in]`` by the options, and the reason if there are none."""
    if allowed is not None:
        eligible, reason = allowed[consumer.name].copy(), f"stays whole (scheme={options.scheme!r})"
    elif options.inputs:
        eligible, reason = np.ones(consumer.count, dtype=bool), ""
    else:
        eligible, reason = consumer.hidden.copy(), "reads raw inputs only (inputs=False)"
    return eligible, "" if eligible.any() else reason


def _scores(removals: Sequence[Removal], root: nn.Module, options: MaskOptions) -> list[Scores]:
    """For each consumer the scores of its channels ``[in]`` by weights."""
    criterion = weight_criterion(options)
    return [weight_scores(criterion, removal.consumer, root) for removal in removals]


def _remove_lowest(removals: Sequence[Removal], pools: Sequence[Pool], options: MaskOptions) -> None:
    """Mark the units with the lowest scores as removed."""
    chosen = select_global(pools, options.round_to) if options.scope == "global" else select(pools, options.round_to)
    for unit in chosen:
        for number, channel in unit.members:
            removals[number].removed[channel] = True


def _explain(removals: Sequence[Removal]) -> None:
    """Set the reasons of removals that have none yet."""
    for removal in removals:
        removal.reason = removal.reason or _reason(removal)


def _reason(removal: Removal) -> str:
    """Why a consumer does not lose more; empty if it loses as many channels as asked."""
    count, gone = int(removal.eligible.sum()), int(removal.removed.sum())
    if removal.amount == 0:
        return "amount 0"
    if removal.asked == 0:
        return f"{removal.amount:g} of {count} channels rounds to none"
    if gone < removal.asked:
        return "fewer removed: one channel (of each head) stays, the rest is a multiple of round_to, sets are shared"
    return ""


def _check_anything_removed(removals: Sequence[Removal], refused: Sequence[Unmaskable], options: MaskOptions) -> None:
    """Raise a NothingToPruneError if an amount is above 0 and no channel is removed."""
    asked = options.amount.values() if isinstance(options.amount, Mapping) else [options.amount or 0.0]
    if any(share > 0 for share in asked) and not any(removal.removed.any() for removal in removals):
        raise NothingToPruneError(nothing_to_prune(removals, refused))


def nothing_to_prune(removals: Sequence[Removal], refused: Sequence[Unmaskable] = ()) -> str:
    """The message of NothingToPruneError: every consumer and why it keeps all channels."""
    if not removals and not refused:
        return (
            "nothing to prune: the model has no contraction over channels that can be masked (a linear layer or matrix "
            "product with a weight [out, in], an attention product); weights of other shapes are kept whole"
        )
    lines = [f"  {r.consumer.name} ({r.consumer.count} channels): {r.reason or 'nothing removed'}" for r in removals]
    lines += [f"  {u.name} ({u.channels} channels): {u.reason}" for u in refused]
    if any("inputs=False" in removal.reason for removal in removals):
        lines.append("pass inputs=True to prune raw input features")
    return "nothing to prune; consumers looked at:\n" + "\n".join(lines)
