"""Values that are entries of a parameter, and how many calls read each entry."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow, reads_sizes
from upscale_fx.analysis.stored import is_parameter
from upscale_fx.channels.positions import Positions
from upscale_fx.channels.relations import Movement


def stored_entries(flow: Dataflow, node: fx.Node) -> tuple[str, Positions] | None:
    """The parameter that a value is taken from, and the entry at each position; None for computed values."""
    index = np.arange(flow.axes[node].count, dtype=np.int64) if node in flow.axes else None
    while index is not None and node.op != "get_attr":
        relation = flow.relations.get(node)
        if not _moves_entries(relation):
            return None
        assert isinstance(relation, Movement)
        index, node = relation.flows[0].index[index], relation.flows[0].source
    if index is None or not is_parameter(flow, str(node.target)):
        return None
    return str(node.target), index


def _moves_entries(relation: object) -> bool:
    """Whether every position of a value is a position of one source."""
    return isinstance(relation, Movement) and len(relation.flows) == 1 and bool((relation.flows[0].index >= 0).all())


@dataclass
class ReadCounts:
    """How many calls read each entry of a parameter; an entry that several calls read cannot be fitted for one."""

    flow: Dataflow
    known: dict[str, Positions] = field(default_factory=dict)

    def once(self, parameter: str, entries: Positions) -> bool:
        """Whether exactly one call reads each of these entries."""
        return bool((self.of(parameter)[entries] == 1).all())

    def of(self, parameter: str) -> Positions:
        """``[numel]``, how many calls read each entry."""
        if parameter not in self.known:
            size = self.flow.module.get_parameter(parameter).numel()
            counts = self.known[parameter] = np.zeros(size, dtype=np.int64)
            for node in self.flow.nodes:
                if node.op == "get_attr" and node.target == parameter:
                    self._count(node, np.arange(size), counts)
        return self.known[parameter]

    def _count(self, node: fx.Node, entries: Positions, counts: Positions) -> None:
        for user in node.users:
            relation = self.flow.relations.get(user)
            if user not in self.flow.axes and reads_sizes(user):
                continue
            if _moves_entries(relation):
                assert isinstance(relation, Movement)
                self._count(user, entries[relation.flows[0].index], counts)
            else:
                np.add.at(counts, entries, 1)
