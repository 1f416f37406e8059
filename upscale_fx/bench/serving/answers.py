"""Answers in turns: every round lets each column answer the same questions for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch

from upscale_fx.bench.columns import Case
from upscale_fx.bench.serving.columns import Column, Effort, columns
from upscale_fx.bench.serving.pyg import Ids
from upscale_fx.bench.serving.spec import ServingSpec
from upscale_fx.bench.timing import difference


@dataclass
class Cell:
    """The measurements of one column and one size of questions.

    Attributes:
        seconds: of each answer.
        effort: of one answer.
        stored: bytes of rows between answers.
        difference: to the right outputs, as in the usual benchmark.
    """

    seconds: list[float] = field(default_factory=list)
    effort: Effort | None = None
    stored: int = 0
    difference: float = 0.0

    def percentile(self, share: float) -> float:
        """Seconds within which that share of the answers came, in percent."""
        return float(np.percentile(self.seconds, share))


#: By size of questions and column.
Cells = dict[int, dict[str, Cell]]


@torch.no_grad()
def measure(case: Case, spec: ServingSpec, step: Callable[[str], object] = lambda _: None) -> Cells:
    """Let all columns of a model answer in turns; calls ``step`` :func:`number_of_steps` times."""
    with ExitStack() as stack:
        table = columns(case, spec, stack)
        step(f"{case.name}, set up")
        cells: Cells = {size: {column.name: Cell() for column in table} for size in spec.batches}
        for number in range(-1, spec.rounds):  # the first one warms up, counts and checks
            for size in spec.batches:
                questions = list(_questions(case, spec, size, number))
                for column in table:
                    cell = cells[size][column.name]
                    if number < 0:
                        _count(column, questions[0], cell)
                    else:
                        cell.seconds += _turn(column, questions, spec.patience)
            step(f"{case.name}, answers in turns")
        for column in table:  # again, now that updates have been made
            for size in spec.batches:
                cell = cells[size][column.name]
                cell.stored = column.stored()
                _check(column, next(_questions(case, spec, size, spec.rounds)), cell)
        return cells


def number_of_steps(spec: ServingSpec) -> int:
    """How many steps :func:`measure` reports for one model."""
    return 2 + spec.rounds


def _questions(case: Case, spec: ServingSpec, size: int, number: int) -> Iterator[Ids]:
    """Different nodes, each as likely; the same ones for all columns."""
    random = np.random.default_rng((spec.seed, size, number + 1))
    nodes = case.graph.num_nodes
    for _ in range(spec.questions):
        yield random.choice(nodes, min(size, nodes), replace=False) if size > 1 else random.integers(nodes, size=1)


def _turn(column: Column, questions: list[Ids], patience: float) -> list[float]:
    """Ask at least one question, and no further one when patience is at an end; return seconds."""
    seconds: list[float] = []
    end = time.perf_counter() + patience
    with column.beside():
        for ids in questions:
            column.before()
            start = time.perf_counter()
            column.ask(ids)
            now = time.perf_counter()
            seconds.append(now - start)
            if now > end:
                break
    return seconds


def _count(column: Column, ids: Ids, cell: Cell) -> None:
    with column.beside():
        column.before()
        cell.effort = column.effort(ids)
    _check(column, ids, cell)


def _check(column: Column, ids: Ids, cell: Cell) -> None:
    column.before()
    cell.difference = max(cell.difference, difference(column.ask(ids), column.expected()[ids]))
