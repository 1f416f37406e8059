"""Goals: how many channels every consumer of a model must have lost after each of several steps.

Goals count original channels, so that steps add up to what one call removes. A pruned graph differs from the original:
consumers have fewer channels, may read zero columns (padding of heads, wider reads), or are gone, and attention vectors
folded into a layer have become consumers. One call masks the layer and folds the rest. So here a folded vector follows
its layer: with a choice of its own it would keep channels live that the layer has removed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from upscale_fx.analysis.dataflow import analyse
from upscale_fx.compiled.module import CompiledGNN, unfused
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.masking.consumers.pools import Removal, removable
from upscale_fx.masking.consumers.survey import survey
from upscale_fx.masking.options import MaskOptions
from upscale_fx.masking.removals import plan_removals

#: The share of the original channels removed after step ``k`` of ``n``, for an amount ``a``.
SCHEDULES: Mapping[str, Callable[[float, int, int], float]] = {
    "cubic": lambda a, k, n: a * (1 - (1 - k / n) ** 3),
    "linear": lambda a, k, n: a * k / n,
    "exponential": lambda a, k, n: 1 - (1 - a) ** (k / n),
}


@dataclass(frozen=True)
class Goal:
    """How much one consumer of the original model loses in all steps.

    Attributes:
        name: its name in the original model.
        channels: the number of its input channels there, with those that are always kept.
        heads: how many channels of each head can be removed; one number where there are no heads.
        amount: the share of each head to remove.
        asked: how many channels one call with that amount is asked to remove.
        reason: why it keeps all channels, if it does.
    """

    name: str
    channels: int
    heads: tuple[int, ...]
    amount: float
    asked: int
    reason: str

    @property
    def eligible(self) -> int:
        """How many of its channels can be removed."""
        return sum(self.heads)

    def removed_at(self, share: float) -> int:
        """How many channels a share removes: ``round(share * channels)`` of each head, never all of a head."""
        return sum(removable(count, share) for count in self.heads)


@dataclass
class Goals:
    """The goals of a model's consumers; consumers of later graphs are added under their names there.

    Attributes:
        by_name: goals by the names of consumers.
        inputs: whether raw input channels can be removed.
        together: whether the goals hold for all channels together (``scope="global"``), not consumer by consumer.
        shared: whether readers of a tensor share one set (``constrained``), so that no vector needs to follow a layer.
        tied: folded vectors, and the layer that each follows.
    """

    by_name: dict[str, Goal]
    inputs: bool
    together: bool
    shared: bool = False
    tied: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, traced: CompiledGNN, options: MaskOptions) -> Goals:
        """The goals of a traced model.

        Raises:
            AmountError, PatternError, NothingToPruneError: see :func:`upscale_fx.mask`.
        """
        removals = plan_removals(survey(analyse(traced)), traced, options)
        goals = {
            removal.consumer.name: Goal(
                removal.consumer.name,
                removal.consumer.count,
                _heads(removal),
                removal.amount,
                removal.asked,
                removal.reason,
            )
            for removal in removals
        }
        return cls(goals, options.inputs, options.scope == "global", options.constrained)

    def now(self, compiled: CompiledGNN) -> dict[str, Removal]:
        """The consumers of a pruned graph, with the channels that can still be removed."""
        graph = unfused(compiled)
        removals = plan_removals(survey(analyse(graph)), graph, MaskOptions(amount=0.0, inputs=self.inputs))
        return {removal.consumer.name: removal for removal in removals}

    def shares(self, compiled: CompiledGNN, share_of: Callable[[float], float]) -> dict[str, float]:
        """The share of its present channels that each consumer of a graph must lose now.

        Args:
            compiled: the model, or the graph after earlier steps.
            share_of: for an amount, the share of the original channels that must be removed by now.

        Returns:
            By consumer the share to remove; 0 where it has lost enough.
        """
        present = self.now(compiled)
        self._adopt(present)
        if self.together:
            return self._shares_together(present, share_of)
        shares = dict.fromkeys(present, 0.0)
        for name, removal in present.items():
            goal, counts = self.by_name[name], _heads(removal)
            if goal.amount and goal.heads and name not in self.tied:  # neither ignored nor a follower
                due = goal.removed_at(share_of(goal.amount)) - (goal.eligible - sum(counts))
                shares[name] = share_for(counts, due)
        return shares

    def follow(self, compiled: CompiledGNN) -> bool:
        """Mask folded vectors, in place, where the layers they follow read nothing; whether anything changed."""
        graph, present = unfused(compiled), self.now(compiled)
        self._adopt(present)
        changed = False
        for name, leader in self.tied.items():
            if name not in present or leader not in present:
                continue
            vector, layer = present[name], present[leader].consumer
            kept = np.isin(vector.consumer.channels, layer.channels[layer.reads(graph)])
            removed = vector.eligible & ~kept
            if removed.any() and (vector.eligible & kept).any():
                vector.consumer.zero(compiled, removed)
                changed = True
        return changed

    def _adopt(self, present: Mapping[str, Removal]) -> None:
        """Give new consumers a goal; a new consumer that reads only channels of its layer follows that layer."""
        known = {name: removal for name, removal in present.items() if name in self.by_name}
        for name in present.keys() - known.keys():
            added = present[name]
            self.by_name[name] = goal = _origin(added.consumer, known, self.by_name)
            leader = known.get(goal.name)
            if leader is not None and not self.shared and added.consumer.kind == leader.consumer.kind == "weight":
                read = leader.consumer.channels[leader.eligible]
                if np.isin(added.consumer.channels[added.eligible], read).all():
                    self.tied[name] = goal.name

    def _shares_together(self, present: Mapping[str, Removal], share_of: Callable[[float], float]) -> dict[str, float]:
        """One share for all consumers that can lose channels; scores decide which of them do."""
        pruned = [goal for name, goal in self.by_name.items() if goal.name == name and goal.amount and goal.heads]
        left = {goal.name: int(present[goal.name].eligible.sum()) for goal in pruned if goal.name in present}
        due = sum(goal.eligible * share_of(goal.amount) for goal in pruned)
        lost = sum(goal.eligible - left.get(goal.name, 0) for goal in pruned)
        share = max(due - lost, 0.0) / max(sum(left.values()), 1)
        free = {name for name in present if self.by_name[name].amount and self.by_name[name].heads} - self.tied.keys()
        return {name: share if name in free else 0.0 for name in present}


def share_for(counts: Sequence[int], wanted: int) -> float:
    """The share of each head that removes ``wanted`` channels in all, or else the most below that.

    It lies in the middle of all shares that round to the same numbers, so that rounding errors do not matter.
    """
    marks = sorted({(gone + 0.5) / count for count in counts for gone in range(count)})
    shares = [(a + b) / 2 for a, b in pairwise(marks)]
    place = bisect_right(shares, wanted, key=lambda share: sum(removable(count, share) for count in counts))
    return shares[place - 1] if place and wanted > 0 else 0.0


def _heads(removal: Removal) -> tuple[int, ...]:
    """How many channels of each head can be removed."""
    blocks = removal.consumer.blocks
    if blocks is None:
        count = int(removal.eligible.sum())
        return (count,) if count else ()
    return tuple(int(count) for count in np.bincount(blocks[removal.eligible]) if count)


def _origin(consumer: Consumer, known: Mapping[str, Removal], goals: Mapping[str, Goal]) -> Goal:
    """The goal of a consumer that is not in the original model, or has another name there."""
    stem = consumer.name.split("@")[0]
    renamed = [g for name, g in goals.items() if "@" in name and name.split("@")[0] == stem and name not in known]
    if consumer.kind == "product" and renamed:  # its name is that of a node, and compaction replaces nodes
        return renamed[0]
    module = consumer.name.rpartition(".")[0]
    beside = [
        (name.rpartition(".")[0] == module, len(np.intersect1d(other.consumer.channels, consumer.channels)), name)
        for name, other in known.items()
    ]
    shared = [candidate for candidate in beside if candidate[1]]
    if shared:
        return goals[max(shared, key=lambda candidate: candidate[:2])[2]]
    return Goal(consumer.name, consumer.count, (), 0.0, 0, "nothing in the original model reads what it does")
