"""Which values whose layouts cannot be expressed have nothing to do with one another.

Less freedom for one value changes what its sources keep, and their sources, and with it the order of all channels that
are tied to any of these. Another value that could not be expressed is none of these, nor is what it reads tied to them:
then it cannot be expressed after that either, and both lose freedom at once. Where no order of its channels could help
a value, it is enough that it is not among these sources, so that it keeps the same. So a network of many equal blocks
is rewritten as often as one block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.identity import components
from upscale_fx.channels.positions import Positions
from upscale_fx.compacting.rewrite import Misaligned


def independent(first: Misaligned, flow: Dataflow, ids: Mapping[fx.Node, Positions]) -> Iterator[Misaligned]:
    """The first of some values, and the later ones that cannot be expressed whatever freedom those before them lose.

    Args:
        first: the first one, with the later ones.
        flow: the analysis of the graph.
        ids: the channels of its values.
    """
    yield first
    if not first.later:
        return
    component = components(ids)
    touched = np.zeros(len(component), dtype=bool)
    seen: set[fx.Node] = set()

    def touch(problem: Misaligned) -> None:
        pending = list(_concerned(problem, flow))
        while pending:
            node = pending.pop()
            if node not in seen:
                seen.add(node)
                pending += flow.relations[node].reads
                if node in ids:
                    touched[component[ids[node]]] = True

    touch(first)
    for problem in first.later:
        concerned = [node for node in _concerned(problem, flow) if node in ids]
        if problem.certain:
            apart = seen.isdisjoint(problem.nodes)
        else:
            apart = not any(touched[component[ids[node]]].any() for node in concerned)
        if apart:
            yield problem
            touch(problem)


def _concerned(problem: Misaligned, flow: Dataflow) -> set[fx.Node]:
    """The values of a problem, the one that was being emitted, and what they read."""
    nodes = [*problem.nodes, *([problem.reader] if problem.reader is not None else [])]
    return {*nodes, *(source for node in nodes for source in flow.relations[node].reads)}
