"""The joint regression of layers whose outputs are added.

A *target* is a value that is a sum of *terms* and a rest::

    target = sum over terms of R_t(x_t) W_t + R_b(1) b + rest

where ``x_t`` is the input of a linear layer, ``W_t`` its weight, ``b`` a bias, and ``R`` operations along rows
(:mod:`linear_rows`), such as the aggregation after the linear layer of a GCN. SAGE's two branches are two terms of one
target. Channels of all terms are the *variables* of the target's problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.row_symbols import rows_of
from upscale_fx.channels.positions import Positions
from upscale_fx.masking.reconstruction.differences import lacking, real
from upscale_fx.masking.reconstruction.moments import Moments
from upscale_fx.masking.reconstruction.parameters import entries_of, set_entries
from upscale_fx.masking.reconstruction.replay import Replay
from upscale_fx.masking.reconstruction.sampling import sample
from upscale_fx.masking.reconstruction.solve import NotFittedError


@dataclass(frozen=True)
class Term:
    """One summand of a target.

    Attributes:
        consumer: number of its consumer; -1 for a bias.
        node: the contraction; for a bias the call that adds it.
        x: the input of the contraction; for a bias, a value with its rows.
        path: the operations along rows between its result and the target, in order, each with the operand on the path.
        parameter: name of the parameter that holds its weight or bias.
        entries: ``[C, O]``, the entry of the flat parameter that is the weight of channel ``c`` in output ``o``.
    """

    consumer: int
    node: fx.Node
    x: fx.Node
    path: tuple[tuple[fx.Node, fx.Node], ...]
    parameter: str
    entries: Positions

    @property
    def variables(self) -> Positions:
        """``[C, 2]``: its consumer and each of its channels; -1 and -1 for a bias."""
        count = len(self.entries)
        channels = np.arange(count) if self.consumer >= 0 else np.full(count, -1)
        return np.stack([np.full(count, self.consumer), channels], axis=1)


@dataclass(frozen=True)
class JointProblem:
    """A target and its terms as one least-squares problem; see :class:`~problem.Problem`.

    Attributes:
        target: the value that is a sum of the terms and a rest.
        terms: the terms, biases last.
        number: its number among all problems.
    """

    target: fx.Node
    terms: tuple[Term, ...]
    number: int = -1
    reason = ""
    logits = False

    @property
    def calls(self) -> tuple[fx.Node, ...]:
        """The contractions whose weights this problem fits."""
        return tuple(term.node for term in self.terms if term.consumer >= 0)

    @property
    def variables(self) -> Positions:
        """``[1, V, 2]``: consumer and channel of every variable; -1 for biases."""
        return np.concatenate([term.variables for term in self.terms])[None]

    @property
    def parameters(self) -> set[str]:
        """The weights and biases of all terms."""
        return {term.parameter for term in self.terms}

    def weight(self, root: nn.Module) -> Tensor:
        """``[1, V, O]`` in float64: the weights of all terms, one below the other."""
        return torch.cat([entries_of(root, term.parameter, term.entries) for term in self.terms])[None]

    def last_node(self, place: Mapping[fx.Node, int]) -> fx.Node:
        """The target."""
        return self.target

    def held_nodes(self, refitted: bool = True) -> set[fx.Node]:
        """The inputs of the terms, and the other operands of operations on their paths."""
        held = {self.target} if refitted else set()
        for term in self.terms:
            if term.consumer >= 0 or term.path:
                held.add(term.x)
            for step, operand in term.path:
                held.update(node for node in step.all_input_nodes if node is not operand)
        return held

    @torch.no_grad()
    def gather(
        self, moments: Moments, replay: Replay, flow: Dataflow, weight: Tensor | None, seed: int
    ) -> Tensor | None:
        """Add one batch to the moments; returns its rows ``[rows, 1, V]``. See :meth:`~problem.Problem.gather`."""
        x = self._rows(replay, weight is not None)
        missing = None
        if weight is not None:
            missing = lacking(replay.dense[self.target], replay.pruned[self.target])
            missing = missing.reshape(-1, 1, missing.shape[-1])
        some = sample(len(x), rows_of(flow.axes[self.target]), self.target.name, seed)
        moments.add(some.of(real(x)), None if missing is None else some.of(missing), some.weight)
        return x

    def _rows(self, replay: Replay, pruned: bool) -> Tensor:
        """``[rows, 1, V]``: the input of every term, taken along its path to the target, side by side."""
        values = replay.pruned if pruned else replay.dense
        columns: list[Tensor] = []
        for term in self.terms:  # biases come last
            if term.consumer < 0 and not term.path:
                columns.append(columns[0].new_ones((len(columns[0]), 1)))
                continue
            value = values[term.x]
            if term.consumer < 0:
                value = value.new_ones((*value.shape[:-1], 1))
            value = replay.along(term.path, value, pruned)
            columns.append(value.reshape(-1, value.shape[-1]))
        if len({len(part) for part in columns}) > 1:
            raise NotFittedError("its terms have different rows")
        return torch.cat(columns, dim=1)[:, None]

    def correct(self, replay: Replay, rows: Tensor | None, change: Tensor) -> bool:
        """Add the effect of changed weights to the pruned model's target."""
        if rows is None:
            return False
        target = replay.pruned[self.target]
        change = change[0].to(target)
        replay.pruned[self.target] = target + (rows[:, 0] @ change).view(target.shape)
        return True

    def write(self, root: nn.Module, weight: Tensor) -> set[str]:
        """Set the parameters of all terms; returns their names."""
        start = 0
        for term in self.terms:
            stop = start + len(term.entries)
            set_entries(root, term.parameter, term.entries, weight[0, start:stop])
            start = stop
        return self.parameters
