"""The study of a model on calibration data: the moments of every least-squares problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import length_hint
from typing import TypeVar

from torch import Tensor

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.propagations import find_propagations
from upscale_fx.channels.positions import Mask
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.progress import progress_bar
from upscale_fx.errors import InputError, warn
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.masking.reconstruction.find_problems import find_problems
from upscale_fx.masking.reconstruction.moments import Moments
from upscale_fx.masking.reconstruction.problem import Problem, consumers_of
from upscale_fx.masking.reconstruction.replay import Replay
from upscale_fx.masking.reconstruction.solve import NotFittedError

#: The most layers that a warning names.
_TOLD = 3

T = TypeVar("T")
#: Calibration data: for each call the arguments by name.
Calls = Iterable[Mapping[str, object]]


@dataclass
class Study:
    """The least-squares problems of a traced model and their moments on calibration data.

    Attributes:
        flow: the analysed graph of the dense model.
        consumers: its consumers.
        eligible: for each consumer, the eligible channels.
        batches: the calibration data, as arguments by name; it is iterated several times.
        seed: seed of the rows that are drawn where a batch has too many.
        progress: show bars, where standard error is a terminal.
        problems: the problems, in execution order: problem ``k`` has number ``k``.
        moments: their moments in the dense model, by number; None where no channel is eligible, or where a problem
            cannot be fitted. Empty before :meth:`observe`.
        rows: by the number of a problem, its number of rows.
        reasons: by the number of a problem, why its weights cannot be fitted.
    """

    flow: Dataflow
    consumers: Sequence[Consumer]
    eligible: Sequence[Mask]
    batches: Calls
    seed: int = 0
    progress: bool = True
    problems: list[Problem] = field(init=False)
    moments: list[Moments | None] = field(init=False, default_factory=list)
    rows: dict[int, int] = field(init=False, default_factory=dict)
    reasons: dict[int, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._warned = False
        self.propagations = find_propagations(self.flow)
        self.place = {node: i for i, node in enumerate(self.flow.nodes)}
        self.problems = find_problems(self.flow, self.consumers, self.eligible)

    @property
    def root(self) -> CompiledGNN:
        """The traced dense model."""
        module = self.flow.module
        assert isinstance(module, CompiledGNN)
        return module

    def observe(self) -> None:
        """Gather the moments of the dense model in one pass over the data.

        Raises:
            InputError: no data, or activations that are not finite.
        """
        observed = [(p, Moments.for_weight(p.weight(self.root))) for p in self.problems if self._may_lose(p)]
        held = {node for problem, _ in observed for node in problem.held_nodes(refitted=False)}
        for number, arguments in enumerate(self.bar("calibrating")):
            replay = Replay(self.root, self.root, (), arguments, self.propagations, held)
            for problem, moments in observed:
                replay.advance(problem.last_node(self.place))
                self.gather(problem, moments, replay, None, number)
        for problem, moments in observed:
            self.check(problem, moments)
        if observed and not any(moments.rows for _, moments in observed):
            raise InputError(
                "calibration: the data has no rows for any layer (no nodes, or no edges); pass data that the model "
                "computes something on"
            )
        known = {problem.number: moments for problem, moments in observed if problem.number not in self.reasons}
        self.moments = [known.get(problem.number) for problem in self.problems]
        self.warn_of_few_rows()

    def known_moments(self, problem: Problem) -> Moments | None:
        """The moments of a problem in the dense model, if they were observed."""
        return self.moments[problem.number] if self.moments else None

    def gather(
        self, problem: Problem, moments: Moments, replay: Replay, weight: Tensor | None, number: int
    ) -> Tensor | None:
        """Add batch ``number`` to the moments of a problem; records the reason if it cannot be fitted."""
        if problem.number in self.reasons:
            return None
        try:
            return problem.gather(moments, replay, self.flow, weight, self.seed + number)
        except NotFittedError as reason:
            self.reasons[problem.number] = str(reason)
            return None

    def _may_lose(self, problem: Problem) -> bool:
        return any(self.eligible[number].any() for number in consumers_of(problem))

    def bar(self, what: str) -> Iterable[Mapping[str, object]]:
        """The batches with a progress bar."""
        return progress_bar(self.batches, desc=what, shown=self.progress, leave=False, unit="batch")

    @property
    def single(self) -> bool:
        """Whether the data is one batch."""
        return length_hint(self.batches, 0) == 1  # 0: the length of a stream is not known

    def told(self, items: Sequence[T], what: str) -> Iterable[T]:
        """Items with a progress bar."""
        return progress_bar(items, desc=what, shown=self.progress, leave=False)

    def names(self, problem: Problem) -> list[str]:
        """The names of the consumers with variables in a problem."""
        return sorted({self.consumers[number].name for number in consumers_of(problem)})

    def check(self, problem: Problem, moments: Moments) -> None:
        """Raise an InputError if moments are not finite; records the number of rows.

        A problem without rows (of a relation without edges, say) cannot be fitted.
        """
        if not moments.finite:
            raise InputError(
                f"calibration: inputs of {', '.join(self.names(problem))} hold NaN or infinite values; check the "
                f"calibration data (torch.isfinite) and the model's weights, and calibrate in float32 what overflows "
                f"in half precision"
            )
        if problem.number not in self.reasons:
            if not moments.rows:
                self.reasons[problem.number] = "the calibration data has no rows for it"
            self.rows[problem.number] = int(moments.rows)

    def warn_of_few_rows(self) -> None:
        """Warn, once, of problems with fewer rows than variables, which have many solutions."""
        seen = [(self.problems[number], rows) for number, rows in self.rows.items()]
        few = [(problem, rows) for problem, rows in seen if rows < problem.variables.shape[1]]
        if self._warned or not few:
            return
        self._warned = True
        told = [f"{', '.join(self.names(p))}: {rows:,} rows for {p.variables.shape[1]:,} inputs" for p, rows in few]
        more = [] if len(told) <= _TOLD else [f"{len(told) - _TOLD} more"]
        warn(
            f"calibration: fewer rows than inputs to weigh ({'; '.join([*told[:_TOLD], *more])}). Weights are fitted "
            f"too closely to the calibration data: calibrate on more of it (a larger graph, more batches)"
        )
