"""Fits the kept weights to the dense model's outputs, in graph order, on the inputs of the pruned model.

A problem is solved after all problems before it, so its inputs are those of the pruned model so far. A single batch is
run once, and the run continues after every solution. With several batches, independent problems are gathered together;
there are as many passes over the data as the longest chain of problems that depend on each other.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, fx

from upscale_fx.channels.positions import Mask
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.masking.reconstruction.moments import Moments
from upscale_fx.masking.reconstruction.problem import Problem, consumers_of
from upscale_fx.masking.reconstruction.replay import Replay, descendants
from upscale_fx.masking.reconstruction.solve import RIDGE, NotFittedError, fit, normal_equations
from upscale_fx.masking.reconstruction.study import Study


@dataclass
class Refit:
    """One refit.

    Attributes:
        study: the problems and the data.
        removed: for each consumer, the removed channels.
        ridge: see :mod:`solve`.
        working: a copy of the dense model, whose parameters are fitted one problem after the other.
        names: parameters that changed.
        reasons: by number of a consumer, why its weights were not fitted.
    """

    study: Study
    removed: Sequence[Mask]
    ridge: float = RIDGE
    names: set[str] = field(default_factory=set)
    reasons: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        study = self.study
        self.working: CompiledGNN = copy.deepcopy(study.root)
        lost = {c for c, mask in enumerate(self.removed) if mask.any()}
        affected = descendants(study.flow.nodes, {site for c in lost for site in study.consumers[c].sites})
        self.problems = [p for p in study.problems if any(site in affected for site in p.calls)]
        targets = {cut.target for c in lost for cut in study.consumers[c].cuts}
        targets |= {name for problem in self.problems for name in problem.parameters}
        owners = {target.rpartition(".")[0] for target in targets}
        names = {"get_attr": targets, "call_module": owners}
        self.changed = {node for node in study.flow.nodes if node.target in names.get(node.op, ())}

    def run(self) -> dict[str, Tensor]:
        """Fit everything; returns the parameters that changed, with removed channels zero.

        Raises:
            InputError: activations are not finite, or the model fails on a batch.
        """
        left = self._settled_by_the_dense_model()
        if self.study.single:
            self._one_batch(left)
        else:
            self._stream(left)
        for number, mask in enumerate(self.removed):
            if mask.any():  # consumers without a problem too
                self._zero(number)
                if self.study.consumers[number].unfitted:
                    self.reasons[number] = self.study.consumers[number].unfitted
        self.study.warn_of_few_rows()
        return {name: self.working.get_parameter(name).detach() for name in sorted(self.names)}

    def _settled_by_the_dense_model(self) -> list[Problem]:
        """Solve problems without changed inputs, by the moments of the dense model; returns the other problems."""
        left = []
        for problem, stage in zip(self.problems, self._stages(self.problems), strict=True):
            moments = self.study.known_moments(problem)
            if stage == 0 and moments is not None:
                self._solve(problem, moments, problem.weight(self.working))
            else:
                left.append(problem)
        return left

    def _one_batch(self, problems: Sequence[Problem]) -> None:
        study, place = self.study, self.study.place
        replay: Replay | None = None
        for number, problem in enumerate(study.told(problems, "refitting")):
            later = problems[number + 1 :]
            if replay is None:
                held = {node for p in problems[number:] for node in p.held_nodes()}
                batch = next(iter(study.batches))
                replay = Replay(study.root, self.working, self.changed, batch, study.propagations, held)
            replay.advance(problem.last_node(place))
            weight = problem.weight(self.working)
            moments = Moments.for_weight(weight)
            rows = study.gather(problem, moments, replay, weight, 0)
            change = self._solve(problem, moments, weight)
            if later and problem.correct(replay, rows, change):
                replay.release(problem.held_nodes() - {node for p in later for node in p.held_nodes()})
            else:
                replay = None

    def _stream(self, problems: Sequence[Problem]) -> None:
        study = self.study
        stages = self._stages(problems)
        for stage in range(max(stages, default=-1) + 1):
            now = [p for p, own in zip(problems, stages, strict=True) if own == stage]
            weights = [problem.weight(self.working) for problem in now]
            moments = [Moments.for_weight(weight) for weight in weights]
            held = {node for problem in now for node in problem.held_nodes()}
            for number, arguments in enumerate(study.bar(f"refitting {stage + 1}/{max(stages) + 1}")):
                replay = Replay(study.root, self.working, self.changed, arguments, study.propagations, held)
                for problem, own, weight in zip(now, moments, weights, strict=True):
                    replay.advance(problem.last_node(study.place))
                    study.gather(problem, own, replay, weight, number)
            for problem, own, weight in zip(now, moments, weights, strict=True):
                self._solve(problem, own, weight)

    def _solve(self, problem: Problem, moments: Moments, weight: Tensor) -> Tensor:
        """Fit a problem and write its weights; returns their change ``[B, V, O]``."""
        self.study.check(problem, moments)
        kept = self._kept(problem)
        reason = self.fit_problem(problem, moments, weight, kept)
        consumers = consumers_of(problem)
        for number in consumers:
            self._zero(number)
        if reason:
            self.reasons |= dict.fromkeys(consumers, reason)
        return problem.weight(self.working) - weight  # as they are stored, rounded to their dtype

    def fit_problem(self, problem: Problem, moments: Moments, weight: Tensor, kept: Tensor) -> str:
        """Fit a problem and write its weights; returns the reason if it does not, else an empty text."""
        reason = problem.reason or self.study.reasons.get(problem.number, "")
        if reason or (bool(kept.all()) and not moments.error):  # the second: the error is zero already
            return reason
        free = kept[:, :, None] & self._free(problem, weight)
        try:
            fitted = fit(*normal_equations(moments, weight, self.ridge, problem.variables[..., 0] < 0), free)
        except NotFittedError as error:
            return str(error)
        self.names |= problem.write(self.working, fitted)
        return ""

    def _free(self, problem: Problem, weight: Tensor) -> Tensor:
        """``[B, V, O]``: entries that can become nonzero: those that are, and biases that are all zero (untrained)."""
        free = weight != 0
        bias = torch.from_numpy(problem.variables[..., 0] < 0)
        free[bias] |= ~free[bias].any(dim=-1, keepdim=True)
        return free

    def _zero(self, number: int) -> None:
        if self.removed[number].any():
            consumer = self.study.consumers[number]
            consumer.zero(self.working, self.removed[number])
            self.names |= {cut.target for cut in consumer.cuts}

    def _kept(self, problem: Problem) -> Tensor:
        variables = problem.variables
        kept = np.ones(variables.shape[:2], dtype=bool)
        for number in consumers_of(problem):
            own = variables[..., 0] == number
            kept[own] = ~self.removed[number][variables[..., 1][own]]
        return torch.from_numpy(kept)

    def _stages(self, problems: Sequence[Problem]) -> list[int]:
        """For each problem the length of the chain of problems that it depends on."""
        study = self.study
        stages: list[int] = []
        reached: list[set[fx.Node]] = []
        for problem in problems:
            held = problem.held_nodes()
            before = [k for k, changed in enumerate(reached) if not changed.isdisjoint(held)]
            stages.append(max((stages[k] for k in before), default=-1) + 1)
            reached.append(descendants(study.flow.nodes, set(problem.calls)) - set(problem.calls))
        return stages
