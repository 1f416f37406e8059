"""Finds the joint problems of a traced graph: the linear layers whose outputs are added, and the sum.

A contraction is followed towards its target while its only reader is linear along rows, or adds something to it; see
:mod:`joint` for the definition of targets and terms. Consumers that are not terms of a target (attention products,
weights of heads, recurrent layers, layers that are called several times) are single problems (:mod:`find_single`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import fx

from upscale_fx.analysis.dataflow import Dataflow, reads_sizes
from upscale_fx.analysis.linear_rows import is_linear_along_rows, is_sum
from upscale_fx.channels.relations import Contraction
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.masking.reconstruction.joint import JointProblem, Term
from upscale_fx.masking.reconstruction.stored_entries import ReadCounts, stored_entries

#: The most variables of a joint problem; with more, each term is a problem of its own.
JOINT = 4096


@dataclass
class _Walk:
    """The path from a contraction to its target, with the biases that are added on it."""

    target: fx.Node
    path: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)
    biases: list[tuple[fx.Node, fx.Node, int]] = field(default_factory=list)


def joint_problems(flow: Dataflow, consumers: Sequence[Consumer]) -> list[JointProblem]:
    """The problems of all targets of a graph, in execution order."""
    place = {node: i for i, node in enumerate(flow.nodes)}
    by_target = _terms_by_target(flow, consumers)
    problems = []
    for target in sorted(by_target, key=place.__getitem__):
        terms = sorted(by_target[target], key=lambda t: (t.consumer < 0, place[t.node]))
        if sum(len(t.entries) for t in terms) <= JOINT or sum(t.consumer >= 0 for t in terms) == 1:
            problems.append(JointProblem(target, tuple(terms)))
        else:
            problems += [JointProblem(t.node, (replace(t, path=()),)) for t in terms if t.consumer >= 0]
    return problems


def _terms_by_target(flow: Dataflow, consumers: Sequence[Consumer]) -> dict[fx.Node, list[Term]]:
    """The terms of every target, each bias once."""
    by_target: dict[fx.Node, list[Term]] = {}
    counts = ReadCounts(flow)
    for number, consumer in enumerate(consumers):
        relations = [flow.relations[site] for site in consumer.sites]
        weights = {relation.weight for relation in relations if isinstance(relation, Contraction)}
        if consumer.kind != "weight" or len(weights) != len(relations):
            continue  # other products, or a weight that several calls share
        own = [list(_terms(flow, number, consumer, node, counts)) for node in consumer.sites]
        if not all(own):
            continue  # either all of its calls are terms, or none is
        for target, term in (pair for pairs in own for pair in pairs):
            known = by_target.setdefault(target, [])
            if not any(t.parameter == term.parameter and t.consumer < 0 and term.consumer < 0 for t in known):
                known.append(term)
    return by_target


def _terms(
    flow: Dataflow, number: int, consumer: Consumer, node: fx.Node, counts: ReadCounts
) -> Iterator[tuple[fx.Node, Term]]:
    """The term of a contraction and those of the biases on its path, each with the target."""
    relation = flow.relations[node]
    assert isinstance(relation, Contraction)
    held = stored_entries(flow, relation.weight)
    if held is None:
        return
    parameter, entries = held
    grid = entries.reshape(flow.axes[relation.weight].shape)
    grid = grid if relation.transposed else grid.T
    if grid.shape[0] != consumer.count or not counts.once(parameter, grid):
        return
    walk = _follow(flow, node)
    yield walk.target, Term(number, node, relation.x, tuple(walk.path), parameter, grid)
    biases = [(relation.bias, relation.x, 0)] if relation.bias is not None else []
    for bias, where, start in [*biases, *walk.biases]:
        own = stored_entries(flow, bias)
        if own is not None and own[1].size == grid.shape[1] and counts.once(*own):
            path = tuple(walk.path[start:])
            yield walk.target, Term(-1, node, where, path, own[0], own[1].reshape(1, -1))


def _follow(flow: Dataflow, node: fx.Node) -> _Walk:
    """Follow a value while its only reader is linear along rows, or adds something to it."""
    walk = _Walk(node)
    shape = flow.axes[node].sizes[-1:]
    while True:
        users = [user for user in walk.target.users if user in flow.axes or not reads_sizes(user)]
        if len(users) != 1 or users[0] not in flow.axes or flow.axes[users[0]].sizes[-1:] != shape:
            return walk
        user = users[0]
        if is_sum(user) and flow.axes[user].pairs == flow.axes[walk.target].pairs:
            others = [other for other in user.all_input_nodes if other is not walk.target]
            if len(others) != 1:
                return walk
            walk.biases += [(others[0], user, len(walk.path))] if others[0].op == "get_attr" else []
        elif is_linear_along_rows(flow, user, walk.target):
            walk.path.append((user, walk.target))
        else:
            return walk
        walk.target = user
