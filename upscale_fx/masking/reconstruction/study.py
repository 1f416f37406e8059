"""What a model computes on calibration data: the moments of every least-squares problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import length_hint
from typing import TypeVar

from torch import Tensor, fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.propagations import find_propagations
from upscale_fx.channels.positions import Mask
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.progress import progress_bar
from upscale_fx.errors import InputError, warn
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.masking.reconstruction.gather import Problem, consumers_of, gather, held_nodes, last_node, shapes
from upscale_fx.masking.reconstruction.moments import Moments
from upscale_fx.masking.reconstruction.own import own_problems
from upscale_fx.masking.reconstruction.regressions import Joint, joint_problems
from upscale_fx.masking.reconstruction.replay import Replay, descendants
from upscale_fx.masking.reconstruction.solve import NotFittedError

#: So many layers are named in a warning.
_TOLD = 3

T = TypeVar("T")
Batches = Iterable[Mapping[str, object]]


@dataclass
class Study:
    """The least-squares problems of a traced model and their moments on calibration data.

    Attributes:
        flow: the analysed graph of the dense model.
        consumers: its consumers.
        eligible: for each consumer, which channels may go.
        batches: the calibration data, gone over several times: arguments by name.
        seed: of the rows that are drawn where a batch has too many.
        problems: the problems, in execution order.
        moments: their moments in the dense model; None where nothing may go, and where they mean nothing.
        reasons: by the ``id`` of a problem why its weights cannot be fitted.
    """

    flow: Dataflow
    consumers: Sequence[Consumer]
    eligible: Sequence[Mask]
    batches: Batches
    seed: int = 0
    progress: bool = True
    problems: list[Problem] = field(default_factory=list)
    moments: list[Moments | None] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rows: dict[int, tuple[Problem, int]] = {}
        self._warned = False
        self.propagations = find_propagations(self.flow)
        place = self.place = {node: i for i, node in enumerate(self.flow.nodes)}
        lose = [c for c, mask in zip(self.consumers, self.eligible, strict=True) if mask.any()]
        affected = descendants(self.flow.nodes, {site for consumer in lose for site in consumer.sites})
        whole = joint_problems(self.flow, self.consumers)
        terms = {t.consumer for p in whole for t in p.terms}
        joint = [self._narrowed(p, affected) for p in whole]
        self.problems = sorted(
            [*joint, *own_problems(self.flow, self.consumers, terms)], key=lambda p: place[last_node(p, place)]
        )
        self.problems = [p for p in self.problems if p.reads]

    def _narrowed(self, problem: Joint, affected: set[fx.Node]) -> Joint:
        """A problem without terms that neither lose channels nor read what has changed."""
        terms = tuple(t for t in problem.terms if t.consumer < 0 or self.eligible[t.consumer].any() or t.x in affected)
        return replace(problem, terms=terms if any(t.consumer >= 0 for t in terms) else ())

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
        chosen = [self._may_lose(problem) for problem in self.problems]
        self.moments = [m if c else None for m, c in zip(shapes(self.problems, self.root), chosen, strict=True)]
        wanted_ = [(p, m) for p, m in zip(self.problems, self.moments, strict=True) if m is not None]
        for number, arguments in enumerate(self.bar("calibrating")):
            held = {node for problem, _ in wanted_ for node in held_nodes(problem, lacking=False)}
            replay = Replay(self.root, self.root, (), arguments, self.propagations, held)
            for problem, moments in wanted_:
                replay.advance(last_node(problem, self.place))
                self.gather(problem, moments, replay, None, number)
        for problem, moments in wanted_:
            self.check(problem, moments)
        if wanted_ and not any(moments.rows for _, moments in wanted_):
            raise InputError(
                "calibration: the data has no rows for any layer (no nodes, or no edges); pass data that the model "
                "computes something on"
            )
        self.moments = [None if id(p) in self.reasons else m for p, m in zip(self.problems, self.moments, strict=True)]
        self.warn_of_few_rows()

    def gather(
        self, problem: Problem, moments: Moments, replay: Replay, weight: Tensor | None, number: int
    ) -> Tensor | None:
        """Add batch ``number`` to the moments of a problem; notes the reason where that makes no sense."""
        if id(problem) in self.reasons:
            return None
        try:
            return gather(problem, moments, replay, self.flow, weight, self.seed + number)
        except NotFittedError as reason:
            self.reasons[id(problem)] = str(reason)
            return None

    def _may_lose(self, problem: Problem) -> bool:
        return any(self.eligible[number].any() for number in consumers_of(problem))

    def bar(self, what: str) -> Iterable[Mapping[str, object]]:
        """The batches with a progress bar."""
        return progress_bar(self.batches, desc=what, shown=self.progress, leave=False, unit="batch")

    @property
    def single(self) -> bool:
        """Whether the data is one batch."""
        return length_hint(self.batches, 0) == 1  # of a stream nobody may know

    def told(self, items: Sequence[T], what: str) -> Iterable[T]:
        """Items with a progress bar."""
        return progress_bar(items, desc=what, shown=self.progress, leave=False)

    def names(self, problem: Problem) -> list[str]:
        """The consumers that have variables in a problem."""
        return sorted({self.consumers[number].name for number in consumers_of(problem)})

    def check(self, problem: Problem, moments: Moments) -> None:
        """Raise an InputError where something that is not finite was gathered; takes note of how many rows there are.

        A consumer without rows (a relation without edges, say) is none that can be fitted.
        """
        if not moments.finite:
            raise InputError(
                f"calibration: inputs of {', '.join(self.names(problem))} hold NaN or infinite values; check the "
                f"calibration data (torch.isfinite) and the model's weights, and calibrate in float32 what overflows "
                f"in half precision"
            )
        if id(problem) not in self.reasons:
            if not moments.rows:
                self.reasons[id(problem)] = "the calibration data has no rows for it"
            self._rows[id(problem)] = (problem, int(moments.rows))

    def warn_of_few_rows(self) -> None:
        """Warn, once, of problems with fewer rows than variables: of many weights that fit the data, one is taken."""
        few = [(p, rows) for p, rows in self._rows.values() if rows < p.variables.shape[1]]
        if self._warned or not few:
            return
        self._warned = True
        told = [f"{', '.join(self.names(p))}: {rows:,} rows for {p.variables.shape[1]:,} inputs" for p, rows in few]
        more = [] if len(told) <= _TOLD else [f"{len(told) - _TOLD} more"]
        warn(
            f"calibration: fewer rows than inputs to weigh ({'; '.join([*told[:_TOLD], *more])}). Weights are fitted "
            f"to the calibration data and little else: calibrate on more of it (a larger graph, more batches)"
        )
