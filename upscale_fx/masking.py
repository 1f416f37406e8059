"""Which channels each consumer stops reading: amounts, scopes, shared sets, and the exact counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from upscale_fx.channels import Mask
from upscale_fx.consumer import Consumer
from upscale_fx.consumers import Survey, Unmaskable
from upscale_fx.criteria import Criterion, resolve_criterion
from upscale_fx.errors import AmountError, CriterionError, NothingToPruneError, PatternError
from upscale_fx.module import CompiledGNN

Scores = npt.NDArray[np.float64]
Amount = float | Mapping[str, float]


@dataclass(frozen=True)
class MaskOptions:
    """What the user asked for; see :func:`upscale_fx.mask`."""

    amount: Amount
    criterion: str | Criterion | None = None
    inputs: bool = False
    constrained: bool = False
    ignore: Sequence[str] = ()
    scope: str = "layer"
    round_to: int = 1


@dataclass
class Removal:
    """What one consumer loses: ``removed`` channels out of ``eligible`` ones, and why not more."""

    consumer: Consumer
    eligible: Mask
    amount: float
    removed: Mask
    reason: str = ""

    @property
    def asked(self) -> int:
        """Channels that the amount alone asks to remove, head by head."""
        blocks = self.consumer.blocks
        if blocks is None:
            return round(self.amount * int(self.eligible.sum()))
        return sum(round(self.amount * int(count)) for count in np.bincount(blocks[self.eligible]))


@dataclass
class _Unit:
    """Channels that go together: one, or one of each head; ``members`` are (removal, channel) pairs."""

    score: float
    members: list[tuple[int, int]] = field(default_factory=list)


def plan_removals(found: Survey, root: nn.Module, options: MaskOptions) -> list[Removal]:
    """Choose what every consumer of a traced graph loses.

    Raises:
        AmountError: an amount is not a number in [0, 1).
        PatternError: unknown criterion or scope, or a pattern that matches no consumer.
        NothingToPruneError: something was asked and nothing can be removed.
    """
    consumers, refused = found
    amounts = _amounts(consumers, options.amount)
    ignored = _matching(consumers, _patterns(options.ignore), "ignore")
    criterion = resolve_criterion(options.criterion)
    if options.scope not in ("layer", "global"):
        raise PatternError(f"unknown scope {options.scope!r}: choose 'layer' or 'global'")
    round_to: Any = options.round_to
    if type(round_to) is bool or not isinstance(round_to, Integral) or int(round_to) < 1:
        raise AmountError(f"round_to must be a positive integer, got {options.round_to!r}")
    compacted = isinstance(root, CompiledGNN) and bool(root.meta.get("compacted"))
    removals = []
    for consumer in consumers:
        eligible = np.ones(consumer.count, dtype=bool) if options.inputs else consumer.hidden.copy()
        reason = "" if eligible.any() else "reads raw inputs only (inputs=False)"
        if compacted:  # zero columns are padding of heads or wider reads there, not channels of the model
            eligible &= consumer.reads(root)
        if not reason and not eligible.any():
            reason = "all its weights are zero already"
        if consumer.name in ignored:
            reason, eligible = "ignored", np.zeros(consumer.count, dtype=bool)
        removed = np.zeros(consumer.count, dtype=bool)
        removals.append(Removal(consumer, eligible, amounts[consumer.name], removed, reason))
    scores = [_scores(criterion, removal.consumer, root) for removal in removals]
    pools = _shared_pools(removals, scores) if options.constrained else _own_pools(removals, scores)
    _select(pools, removals, options)
    for removal in removals:
        _explain(removal)
    asked = options.amount.values() if isinstance(options.amount, Mapping) else [options.amount]
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


def check_amount(amount: Any, name: str) -> float:
    """The amount as a float; raises AmountError unless it is a number in [0, 1)."""
    number = isinstance(amount, Real) and not isinstance(amount, bool)
    if number and 0 <= float(amount) < 1:  # NaN fails both comparisons
        return float(amount)
    raise AmountError(
        f"{name} must be a number in [0, 1): the share of each consumer's channels to remove, got {amount!r}"
    )


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


@dataclass
class _Pool:
    """Channels among which a share is removed: one set per head, all of the same consumer or tied group."""

    amount: float
    blocks: list[list[_Unit]]


def _own_pools(removals: Sequence[Removal], scores: Sequence[Scores]) -> list[_Pool]:
    """One pool per consumer: unconstrained."""
    pools = []
    for number, removal in enumerate(removals):
        blocks = removal.consumer.blocks
        by_block: dict[int, list[_Unit]] = {}
        for channel in np.flatnonzero(removal.eligible).tolist():
            block = int(blocks[channel]) if blocks is not None else 0
            by_block.setdefault(block, []).append(_Unit(float(scores[number][channel]), [(number, channel)]))
        if by_block:
            pools.append(_Pool(removal.amount, list(by_block.values())))
    return pools


def _shared_pools(removals: Sequence[Removal], scores: Sequence[Scores]) -> list[_Pool]:
    """One pool per tensor: all its consumers share one set. One that is ignored or raw keeps the channels it reads."""
    readers: dict[int, list[tuple[int, int]]] = {}
    place: dict[int, tuple[int, int]] = {}
    for number, removal in enumerate(removals):
        consumer = removal.consumer
        for channel, identity in enumerate(consumer.channels.tolist()):
            readers.setdefault(identity, []).append((number, channel))
            block = int(consumer.blocks[channel]) if consumer.blocks is not None else 0
            home = int(consumer.homes[channel])
            known = place.get(identity)
            place[identity] = (home, block if known is None else max(block, known[1]))
    pools: dict[int, dict[int, list[_Unit]]] = {}
    amounts: dict[int, float] = {}
    for identity, members in readers.items():
        if not all(removals[number].eligible[channel] for number, channel in members):
            continue
        home, block = place[identity]
        scale = [scores[n][c] / max(float(np.mean(scores[n])), 1e-300) for n, c in members]
        pools.setdefault(home, {}).setdefault(block, []).append(_Unit(float(sum(scale)), list(members)))
        least = min(removals[number].amount for number, _ in members)
        amounts[home] = min(amounts.get(home, 1.0), least)
    return [_Pool(amounts[home], list(blocks.values())) for home, blocks in pools.items()]


def _select(pools: Sequence[_Pool], removals: Sequence[Removal], options: MaskOptions) -> None:
    if options.scope == "global":
        chosen = _select_global(pools, options.round_to)
    else:
        chosen = []
        for pool in pools:
            for block in pool.blocks:
                chosen += _lowest(block, removable(len(block), pool.amount, options.round_to))
    for unit in chosen:
        for number, channel in unit.members:
            removals[number].removed[channel] = True


def removable(count: int, amount: float, round_to: int = 1) -> int:
    """How many of ``count`` channels go: ``round(amount * count)``, never all, the rest a multiple of ``round_to``."""
    kept = max(count - round(amount * count), 1)
    kept = min(math.ceil(kept / round_to) * round_to, count)
    return count - kept


def _lowest(units: Sequence[_Unit], count: int) -> list[_Unit]:
    """The lowest scores; ties go to the channel that comes first."""
    order = sorted(range(len(units)), key=lambda i: (units[i].score, i))
    return [units[i] for i in order[:count]]


def _select_global(pools: Sequence[_Pool], round_to: int) -> list[_Unit]:
    """The lowest scores of all pools together. Heads of one pool lose equally many: one of each at a time."""
    slots: list[tuple[float, int, int, list[_Unit]]] = []
    target = 0.0
    for number, pool in enumerate(pools):
        ranked = [_lowest(block, len(block)) for block in pool.blocks]
        shortest = min(len(block) for block in ranked)
        target += pool.amount * sum(len(block) for block in ranked)
        if pool.amount > 0:
            for k in range(shortest - 1):  # never the last one
                together = [block[k] for block in ranked]
                slots.append((sum(u.score for u in together) / len(together), number, k, together))
    budget = round(target)
    chosen: dict[int, list[list[_Unit]]] = {}
    for _, number, _, together in sorted(slots, key=lambda slot: slot[:3]):
        if len(together) <= budget:
            budget -= len(together)
            chosen.setdefault(number, []).append(together)
    result: list[_Unit] = []
    for number, groups in chosen.items():
        count = min(len(block) for block in pools[number].blocks)
        kept = min(math.ceil((count - len(groups)) / round_to) * round_to, count)
        result += [unit for together in groups[: count - kept] for unit in together]
    return result


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
