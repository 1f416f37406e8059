"""Which channels each consumer stops reading: amounts, what may go, and by whose scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from upscale_fx.channels.positions import Mask, Scores
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.errors import CriterionError, NothingToPruneError, PatternError
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.masking.consumers.pools import Pool, Removal, own_pools, select, select_global, shared_pools
from upscale_fx.masking.consumers.survey import Survey, Unmaskable
from upscale_fx.masking.criteria import (
    Criterion,
    OutputCriterion,
    ReconstructionCriterion,
    l2,
    random,
    resolve_criterion,
)
from upscale_fx.masking.options import Amount, MaskOptions, check_amount, check_options

#: Sets the scores of all units of the pools, given what may go.
Ranking = Callable[[Sequence[Removal], Sequence[Pool], MaskOptions], None]


def plan_removals(
    found: Survey,
    root: nn.Module,
    options: MaskOptions,
    ranking: Ranking | None = None,
    allowed: Mapping[str, Mask] | None = None,
) -> list[Removal]:
    """Choose what every consumer of a traced graph loses; by ``ranking``, if given, instead of by weights alone.

    ``allowed`` says by the names of consumers which channels may go, instead of ``inputs``.

    Raises:
        AmountError: an amount is not a number in [0, 1).
        PatternError: unknown criterion or scope, or a pattern that matches no consumer.
        NothingToPruneError: something was asked and nothing can be removed.
    """
    check_options(options)
    consumers, refused = found
    amounts = _amounts(consumers, options.amount if options.amount is not None else 0.0)
    ignored = _matching(consumers, _patterns(options.ignore), "ignore")
    criterion = resolve_criterion(options.criterion, options.calibration is not None)
    compacted = isinstance(root, CompiledGNN) and bool(root.meta.get("compacted"))
    removals = []
    for consumer in consumers:
        eligible = np.ones(consumer.count, dtype=bool) if options.inputs else consumer.hidden.copy()
        reason = "" if eligible.any() else "reads raw inputs only (inputs=False)"
        if allowed is not None:
            eligible = allowed[consumer.name].copy()
            reason = "" if eligible.any() else f"stays whole (scheme={options.scheme!r})"
        if compacted:  # zero columns are padding of heads or wider reads there, not channels of the model
            eligible &= consumer.reads(root)
        if not reason and not eligible.any():
            reason = "all its weights are zero already"
        if consumer.name in ignored:
            reason, eligible = "ignored", np.zeros(consumer.count, dtype=bool)
        removed = np.zeros(consumer.count, dtype=bool)
        removals.append(Removal(consumer, eligible, amounts[consumer.name], removed, reason))
    by_weights = l2 if isinstance(criterion, ReconstructionCriterion | OutputCriterion) else criterion
    if by_weights is random:
        by_weights = partial(random, seed=options.seed)
    scores = [_scores(by_weights, removal.consumer, root) for removal in removals]
    pools = shared_pools(removals, scores) if options.constrained else own_pools(removals, scores)
    if ranking is not None:
        ranking(removals, pools, options)
    chosen = select_global(pools, options.round_to) if options.scope == "global" else select(pools, options.round_to)
    for unit in chosen:
        for number, channel in unit.members:
            removals[number].removed[channel] = True
    for removal in removals:
        _explain(removal)
    asked = options.amount.values() if isinstance(options.amount, Mapping) else [options.amount or 0.0]
    if any(share > 0 for share in asked) and not any(r.removed.any() for r in removals):
        raise NothingToPruneError(nothing_to_prune(removals, refused))
    return removals


def _patterns(ignore: Any) -> Sequence[str]:
    if isinstance(ignore, str):
        return [ignore]
    if not isinstance(ignore, Iterable):
        raise PatternError(f"ignore takes a name, a pattern or a list of them, got {ignore!r}")
    return list(ignore)


def _amounts(consumers: Sequence[Consumer], amount: Amount) -> dict[str, float]:
    if not isinstance(amount, Mapping):
        value = check_amount(amount, "amount")
        return {consumer.name: value for consumer in consumers}
    found = {consumer.name: 0.0 for consumer in consumers}
    for pattern, value in amount.items():
        checked = check_amount(value, f"amount[{pattern!r}]")
        for name in _matching(consumers, [pattern], "amount"):
            found[name] = checked
    return found


def _matching(consumers: Sequence[Consumer], patterns: Sequence[str], argument: str) -> set[str]:
    names = [consumer.name for consumer in consumers]
    matched: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise PatternError(f"{argument} takes names or patterns (strings), got {pattern!r}; valid names: {names}")
        hits = {name for name in names if name == pattern} or {
            name for name in names
            if any(fnmatchcase(part, pattern) or part.startswith(pattern + ".") for part in (name, *name.split("@")))
        }  # fmt: skip
        if not hits:
            raise PatternError(f"{argument} pattern {pattern!r} matches no consumer; valid names: {names}")
        matched |= hits
    return matched


def _scores(criterion: Criterion, consumer: Consumer, root: nn.Module) -> Scores:
    weight = consumer.weight(root)
    where = f"for {consumer.name} (weight {list(weight.shape)})"
    try:
        returned = criterion(weight, consumer.name)
    except TypeError as error:
        raise CriterionError(f"the criterion failed {where}: {error}; it takes (weight [out, in], name)") from error
    try:
        scores = torch.as_tensor(returned)
    except (TypeError, ValueError, RuntimeError):
        kind = type(returned).__name__
        raise CriterionError(f"the criterion returned a {kind} {where}; expected scores [in]") from None
    if scores.shape != (consumer.count,):
        raise CriterionError(
            f"the criterion returned scores of shape {list(scores.shape)} {where}; expected [{consumer.count}], one "
            f"per input channel"
        )
    if bool(torch.isnan(scores.double()).any()):
        raise CriterionError(f"the criterion returned NaN {where}; its weights may hold NaN")
    return scores.detach().double().cpu().numpy()


def _explain(removal: Removal) -> None:
    if removal.reason:
        return
    count, gone = int(removal.eligible.sum()), int(removal.removed.sum())
    if removal.amount == 0:
        removal.reason = "amount 0"
    elif removal.asked == 0:
        removal.reason = f"{removal.amount:g} of {count} channels rounds to none"
    elif gone < removal.asked:
        removal.reason = (
            "fewer go: one channel (of each head) stays, the rest is a multiple of round_to, sets are shared"
        )


def nothing_to_prune(removals: Sequence[Removal], refused: Sequence[Unmaskable] = ()) -> str:
    """The message of NothingToPruneError: every consumer that was looked at and why it keeps everything."""
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
