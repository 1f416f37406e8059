"""What every consumer of a model is to have lost after each of several steps, and what that makes of a pruned one.

Goals are integers of the original channels, so that steps add up to what one call removes. A pruned graph is another
graph: consumers have fewer channels, may read zero columns (padding of heads, wider reads), or be gone, and attention
vectors that were folded into a layer have become consumers of their own. One call masks the layer and folds what is
left, so they follow the layer here: choosing on their own they would keep channels alive that it has let go.
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

#: Share of the original channels gone after step ``k`` of ``n``, of an amount ``a``.
SCHEDULES: Mapping[str, Callable[[float, int, int], float]] = {
    "cubic": lambda a, k, n: a * (1 - (1 - k / n) ** 3),
    "linear": lambda a, k, n: a * k / n,
    "exponential": lambda a, k, n: 1 - (1 - a) ** (k / n),
}


@dataclass(frozen=True)
class Goal:
    """What one consumer of the original model is to lose in all.

    Attributes:
        name: its name there.
        channels: its input channels there, those that may not go included.
        heads: of those that may, how many each head has; one number where there are no heads.
        amount: the share of each head to remove.
        asked: how many channels one call with that amount is asked to remove.
        reason: why it keeps everything, if it does.
    """

    name: str
    channels: int
    heads: tuple[int, ...]
    amount: float
    asked: int
    reason: str

    @property
    def eligible(self) -> int:
        """How many of its channels may go."""
        return sum(self.heads)

    def gone(self, share: float) -> int:
        """How many channels are gone at a share: ``round(share * channels)`` of each head, never all of one."""
        return sum(removable(count, share) for count in self.heads)


@dataclass
class Goals:
    """The goals of a model's consumers; later graphs' consumers are added to them under the names they have there.

    Attributes:
        found: goals by the names of consumers.
        inputs: whether raw input channels may go.
        together: whether the goals hold for all channels together (``scope="global"``), not consumer by consumer.
        shared: whether readers of a tensor share one set (``constrained``), so that nobody needs to follow anybody.
        tied: folded vectors, and the layer that each follows.
    """

    found: dict[str, Goal]
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
        found = {
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
        return cls(found, options.inputs, options.scope == "global", options.constrained)

    def now(self, compiled: CompiledGNN) -> dict[str, Removal]:
        """The consumers of a pruned graph with the channels that may still go."""
        graph = unfused(compiled)
        removals = plan_removals(survey(analyse(graph)), graph, MaskOptions(amount=0.0, inputs=self.inputs))
        return {removal.consumer.name: removal for removal in removals}

    def shares(self, compiled: CompiledGNN, share_of: Callable[[float], float]) -> dict[str, float]:
        """Shares of what is left that take every consumer of a graph to where it should be.

        Args:
            compiled: the model or what earlier steps made of it.
            share_of: the share of the original channels that should be gone now, of an amount.

        Returns:
            By consumer the share to remove, 0 where it has lost enough.
        """
        present = self.now(compiled)
        self._adopt(present)
        if self.together:
            return self._shares_together(present, share_of)
        shares = dict.fromkeys(present, 0.0)
        for name, removal in present.items():
            goal, counts = self.found[name], _heads(removal)
            if goal.amount and goal.heads and name not in self.tied:  # neither ignored nor a follower
                wanted = goal.gone(share_of(goal.amount)) - (goal.eligible - sum(counts))
                shares[name] = share_for(counts, wanted)
        return shares

    def follow(self, compiled: CompiledGNN) -> bool:
        """Mask folded vectors, in place, where the layers they follow read nothing; whether there was anything."""
        graph, present = unfused(compiled), self.now(compiled)
        self._adopt(present)
        anything = False
        for name, leader in self.tied.items():
            if name not in present or leader not in present:
                continue
            own, other = present[name], present[leader].consumer
            kept = np.isin(own.consumer.channels, other.channels[other.reads(graph)])
            removed = own.eligible & ~kept
            if removed.any() and (own.eligible & kept).any():
                own.consumer.zero(compiled, removed)
                anything = True
        return anything

    def _adopt(self, present: Mapping[str, Removal]) -> None:
        """Give consumers that are new a goal; those that read nothing but what their layer reads follow it."""
        known = {name: removal for name, removal in present.items() if name in self.found}
        for name in present.keys() - known.keys():
            own = present[name]
            self.found[name] = goal = _origin(own.consumer, known, self.found)
            leader = known.get(goal.name)
            if leader is not None and not self.shared and own.consumer.kind == leader.consumer.kind == "weight":
                read = leader.consumer.channels[leader.eligible]
                if np.isin(own.consumer.channels[own.eligible], read).all():
                    self.tied[name] = goal.name

    def _shares_together(self, present: Mapping[str, Removal], share_of: Callable[[float], float]) -> dict[str, float]:
        """One share for all consumers that may lose anything: which of them do is for the scores to say."""
        pruned = [goal for name, goal in self.found.items() if goal.name == name and goal.amount and goal.heads]
        left = {goal.name: int(present[goal.name].eligible.sum()) for goal in pruned if goal.name in present}
        wanted = sum(goal.eligible * share_of(goal.amount) for goal in pruned)
        lost = sum(goal.eligible - left.get(goal.name, 0) for goal in pruned)
        share = max(wanted - lost, 0.0) / max(sum(left.values()), 1)
        free = {name for name in present if self.found[name].amount and self.found[name].heads} - self.tied.keys()
        return {name: share if name in free else 0.0 for name in present}


def share_for(counts: Sequence[int], wanted: int) -> float:
    """The share of each head that removes ``wanted`` channels in all, or else the most below that.

    It lies in the middle of all shares that round to the same numbers, so that no rounding is a matter of luck.
    """
    marks = sorted({(gone + 0.5) / count for count in counts for gone in range(count)})
    shares = [(a + b) / 2 for a, b in pairwise(marks)]
    place = bisect_right(shares, wanted, key=lambda share: sum(removable(count, share) for count in counts))
    return shares[place - 1] if place and wanted > 0 else 0.0


def _heads(removal: Removal) -> tuple[int, ...]:
    """How many channels of each head may go."""
    blocks = removal.consumer.blocks
    if blocks is None:
        count = int(removal.eligible.sum())
        return (count,) if count else ()
    return tuple(int(count) for count in np.bincount(blocks[removal.eligible]) if count)


def _origin(consumer: Consumer, known: Mapping[str, Removal], found: Mapping[str, Goal]) -> Goal:
    """The goal of a consumer that the original model has not, or not by that name."""
    stem = consumer.name.split("@")[0]
    renamed = [g for name, g in found.items() if "@" in name and name.split("@")[0] == stem and name not in known]
    if consumer.kind == "product" and renamed:  # named after a node, and nodes were replaced
        return renamed[0]
    module = consumer.name.rpartition(".")[0]
    beside = [
        (name.rpartition(".")[0] == module, len(np.intersect1d(other.consumer.channels, consumer.channels)), name)
        for name, other in known.items()
    ]
    shared = [candidate for candidate in beside if candidate[1]]
    if shared:
        return found[max(shared, key=lambda candidate: candidate[:2])[2]]
    return Goal(consumer.name, consumer.count, (), 0.0, 0, "nothing in the original model reads what it does")
