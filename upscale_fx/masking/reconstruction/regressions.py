"""The least-squares problems of a traced graph: what linear layers compute together, and from which channels.

A *target* is a value that is a sum of *terms* and of a rest::

    target = sum over terms of R_t(x_t) W_t + R_b(1) b + rest

where ``x_t`` is what a linear layer reads, ``W_t`` its weight, ``b`` a bias, and ``R`` operations along rows
(:mod:`linear_rows`), such as the aggregation behind the linear layer of a GCN. SAGE's two branches are two terms of one
target. Channels of all terms are the *variables* of the target's problem.

What is no term of a target (attention products, weights of heads, recurrent layers, layers that are called several
times) is a problem of its own: its outputs from its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow, reads_sizes
from upscale_fx.analysis.linear_rows import is_linear_along_rows, is_sum
from upscale_fx.analysis.stored import is_parameter
from upscale_fx.channels.positions import Positions
from upscale_fx.channels.relations import Contraction, Movement
from upscale_fx.masking.consumers.consumer import Consumer

#: More variables than this are not solved for together: each term is a problem of its own.
JOINT = 4096


@dataclass(frozen=True)
class Term:
    """One summand of a target.

    Attributes:
        consumer: number of its consumer; -1 for a bias.
        node: the contraction; for a bias the call that adds it.
        x: what the contraction reads; of a bias the rows count.
        path: the operations along rows between its result and the target, in order, each with the operand that comes
            from here.
        parameter: name of the parameter that holds its weight or bias.
        entries: ``[C, O]``, the entry of the flat parameter that weighs channel ``c`` in output ``o``.
    """

    consumer: int
    node: fx.Node
    x: fx.Node
    path: tuple[tuple[fx.Node, fx.Node], ...]
    parameter: str
    entries: Positions


@dataclass(frozen=True)
class Joint:
    """A target and its terms: one least-squares problem.

    Attributes:
        target: the value that is a sum of the terms and a rest.
        terms: the terms, biases last.
    """

    target: fx.Node
    terms: tuple[Term, ...]

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        """The contractions that this problem finds weights for."""
        return tuple(term.node for term in self.terms if term.consumer >= 0)

    @property
    def variables(self) -> Positions:
        """``[1, V, 2]``: consumer and channel of every variable; -1 for biases."""
        parts = [
            np.stack([np.full(len(t.entries), t.consumer), np.arange(len(t.entries)) if t.consumer >= 0 else
                      np.full(len(t.entries), -1)], axis=1)
            for t in self.terms
        ]  # fmt: skip
        return np.concatenate(parts)[None]


@dataclass
class _Walk:
    """A contraction followed towards its target: what is on the way, and biases met."""

    target: fx.Node
    path: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)
    biases: list[tuple[fx.Node, fx.Node, int]] = field(default_factory=list)


def joint_problems(flow: Dataflow, consumers: Sequence[Consumer]) -> list[Joint]:
    """All targets of a graph, in execution order."""
    by_target: dict[fx.Node, list[Term]] = {}
    count = ReadCounts(flow)
    place = {node: i for i, node in enumerate(flow.nodes)}
    for number, consumer in enumerate(consumers):
        relations = [flow.relations[site] for site in consumer.sites]
        weights = {relation.weight for relation in relations if isinstance(relation, Contraction)}
        if consumer.kind != "weight" or len(weights) != len(relations):
            continue  # other products, or a weight that several calls share
        own = [list(_terms(flow, number, consumer, node, count)) for node in consumer.sites]
        if not all(own):
            continue  # all of its calls, or none
        for target, term in (pair for pairs in own for pair in pairs):
            known = by_target.setdefault(target, [])
            if not any(t.parameter == term.parameter and t.consumer < 0 and term.consumer < 0 for t in known):
                known.append(term)
    found = []
    for target in sorted(by_target, key=place.__getitem__):
        terms = sorted(by_target[target], key=lambda t: (t.consumer < 0, place[t.node]))
        if sum(len(t.entries) for t in terms) <= JOINT or sum(t.consumer >= 0 for t in terms) == 1:
            found.append(Joint(target, tuple(terms)))
        else:
            found += [Joint(term.node, (Term(term.consumer, term.node, term.x, (), term.parameter, term.entries),))
                      for term in terms if term.consumer >= 0]  # fmt: skip
    return found


def _terms(
    flow: Dataflow, number: int, consumer: Consumer, node: fx.Node, count: ReadCounts
) -> Iterator[tuple[fx.Node, Term]]:
    """The term of a contraction, and those of the biases on its way, with their target."""
    relation = flow.relations[node]
    assert isinstance(relation, Contraction)
    held = stored_entries(flow, relation.weight)
    if held is None:
        return
    parameter, entries = held
    grid = entries.reshape(flow.axes[relation.weight].shape)
    grid = grid if relation.transposed else grid.T
    if grid.shape[0] != consumer.count or not count.once(parameter, grid):
        return
    walk = _follow(flow, node)
    yield walk.target, Term(number, node, relation.x, tuple(walk.path), parameter, grid)
    biases = [(relation.bias, relation.x, 0)] if relation.bias is not None else []
    for bias, where, start in [*biases, *walk.biases]:
        own = stored_entries(flow, bias)
        if own is not None and own[1].size == grid.shape[1] and count.once(*own):
            path = tuple(walk.path[start:])
            yield walk.target, Term(-1, node, where, path, own[0], own[1].reshape(1, -1))


def _follow(flow: Dataflow, node: fx.Node) -> _Walk:
    """Walk on while one reader takes the value linearly along rows, or adds something to it."""
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


def stored_entries(flow: Dataflow, node: fx.Node) -> tuple[str, Positions] | None:
    """The parameter whose entries a value holds, and which, position by position; None for what is computed."""
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
    """Whether every position of a value is one of a single source."""
    return isinstance(relation, Movement) and len(relation.flows) == 1 and bool((relation.flows[0].index >= 0).all())


@dataclass
class ReadCounts:
    """By how many calls every entry of a parameter is read: what several calls read is not fitted for one of them."""

    flow: Dataflow
    known: dict[str, Positions] = field(default_factory=dict)

    def once(self, parameter: str, entries: Positions) -> bool:
        """Whether one call alone reads these entries."""
        return bool((self.of(parameter)[entries] == 1).all())

    def of(self, parameter: str) -> Positions:
        """``[numel]``, by how many calls each entry is read."""
        if parameter not in self.known:
            size = self.flow.module.get_parameter(parameter).numel()
            found = self.known[parameter] = np.zeros(size, dtype=np.int64)
            for node in self.flow.nodes:
                if node.op == "get_attr" and node.target == parameter:
                    self._count(node, np.arange(size), found)
        return self.known[parameter]

    def _count(self, node: fx.Node, entries: Positions, found: Positions) -> None:
        for user in node.users:
            relation = self.flow.relations.get(user)
            if user not in self.flow.axes and reads_sizes(user):
                continue
            if _moves_entries(relation):
                assert isinstance(relation, Movement)
                self._count(user, entries[relation.flows[0].index], found)
            else:
                np.add.at(found, entries, 1)
