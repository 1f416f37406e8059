"""One run of the benchmark: every model, every column, checked and then timed in turns."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from upscale_fx.bench import memory
from upscale_fx.bench.columns import BASELINE, RIVALS, Builder, Built, Case, columns
from upscale_fx.bench.graphs import Graph
from upscale_fx.bench.limit import Machine, limit_of
from upscale_fx.bench.networks import make_network
from upscale_fx.bench.spec import Spec
from upscale_fx.bench.timing import ROUNDING, difference, reason_of, seconds, take_turns
from upscale_fx.bench.training import TrainingBuilder, training_columns
from upscale_fx.bench.work import Product, Work, macs_of


@dataclass
class Cell:
    """The measurements of one column.

    Attributes:
        reason: why there are no times; None if there are.
        wrong: whether the reason is a wrong output.
        seconds: the time of every round.
        difference: the difference to the reference.
        parameters: the number of parameters.
        macs: multiply-adds of one call.
        limit: seconds of the products alone.
        peak: peak bytes during a call, above those before it.
        prepared: bytes of the prepared graph that calls take.
        notes: by the name of a missing figure, why it is missing.
    """

    reason: str | None = None
    wrong: bool = False
    seconds: list[float] = field(default_factory=list)
    difference: float | None = None
    parameters: int | None = None
    macs: int | None = None
    limit: float | None = None
    peak: int | None = None
    prepared: int | None = None
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def quartiles(self) -> tuple[float, float, float] | None:
        """First quartile, median and third quartile of the seconds; None without times."""
        if self.reason is not None or not self.seconds:
            return None
        low, middle, high = np.percentile(self.seconds, (25, 50, 75))
        return float(low), float(middle), float(high)

    @property
    def median(self) -> float | None:
        """Median seconds; None without times."""
        return None if self.quartiles is None else self.quartiles[1]


Cells = dict[str, Cell]


@dataclass(frozen=True)
class Result:
    """The measurements of one model: columns of inference, and of training if asked for."""

    inference: Cells
    training: Cells


def best_of(cells: Mapping[str, Cell]) -> float | None:
    """Seconds of the fastest way to run the dense model without upscale_fx."""
    times = [cells[name].median for name in (BASELINE, *RIVALS) if name in cells]
    return min((time for time in times if time is not None), default=None)


def number_of_steps(spec: Spec, table: Mapping[str, Builder] | None = None) -> int:
    """How many steps :func:`run` reports."""
    names = [name for name in table or columns(spec.amounts) if spec.wants(name)]
    trained = [name for name in training_columns(spec.amounts) if spec.wants(name)] if spec.train else []
    rounds = spec.repeats * (1 + spec.train)
    return len(spec.models) * (len(names) * (1 + spec.memory) + len(trained) + rounds)


def run(
    spec: Spec,
    graph: Graph,
    step: Callable[[str], object] = lambda _: None,
    table: Mapping[str, Builder] | None = None,
) -> Iterator[tuple[str, Result]]:
    """Measure one model after the other.

    Args:
        spec: what to measure.
        graph: the graph of that run.
        step: called :func:`number_of_steps` times with the name of the step that was done.
        table: the columns; by default those of :func:`columns`.

    Yields:
        The name of a model, and its measurements.
    """
    machine = Machine(graph)
    chosen = {name: builder for name, builder in (table or columns(spec.amounts)).items() if spec.wants(name)}
    for name in spec.models:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the peers; the table shows errors
            case = Case(name, make_network(name, graph, spec.seed), graph, spec)
            with torch.no_grad():
                inference = _measure(case, chosen, machine, step)
            yield name, Result(inference, _train(case, machine, step) if spec.train else {})


def _measure(case: Case, table: Mapping[str, Builder], machine: Machine, step: Callable[[str], object]) -> Cells:
    cells: Cells = {}
    calls: dict[str, Callable[[], object]] = {}
    needed: dict[str, Work] = {}
    for name, builder in table.items():
        cells[name] = Cell()
        built = _set_up(case, builder, cells[name])
        if built is not None:
            calls[name] = built.call
            needed[name] = _count_work(built, machine, cells[name])
        step(f"{case.name}, {name}")
    times = _time(case, cells, calls, step, machine, set().union(*needed.values()))
    for name, work in needed.items():
        cells[name].limit = limit_of(work, times) if work else None
    for name, cell in cells.items() if case.spec.memory else ():
        if cell.reason is None:
            answer = memory.measure(case.spec, case.name, name)
            if isinstance(answer, str):
                cell.notes["peak"] = answer
            else:
                cell.peak = answer
        step(f"{case.name}, memory")
    return cells


def _set_up(case: Case, builder: Builder, cell: Cell) -> Built | None:
    """Build a column and check it; None if there is a reason not to time it."""
    try:
        built = builder(case)
        if isinstance(built, str):
            cell.reason = built
            return None
        cell.parameters = sum(parameter.numel() for parameter in built.model.parameters())
        cell.prepared = built.prepared
        _check(case.graph, cell, built.call(), built.expected)
    except Exception as error:  # code of others may raise anything; the table shows the error
        cell.reason = reason_of(error)
        return None
    return None if cell.wrong else built


def _count_work(built: Built, machine: Machine, cell: Cell) -> Work:
    """The products whose times make the limit of a column, warmed up; empty if that fails."""
    try:
        cell.macs = macs_of(built.work())
        work = built.least_work()
        for product in work:
            machine.time(product)
    except Exception as error:  # as above; the times do not need it
        cell.notes["limit"] = reason_of(error)
        return Work()
    return work


def _check(graph: Graph, cell: Cell, output: Tensor, expected: Callable[[Tensor], Tensor]) -> None:
    """Compare with the reference; its own change under another order of the edges counts as rounding."""
    reference = expected(graph.edge_index)
    cell.difference = difference(output, reference)
    if cell.difference > ROUNDING:
        order = torch.randperm(graph.num_edges, generator=torch.Generator().manual_seed(0))
        rounding = difference(expected(graph.edge_index[:, order.to(reference.device)]), reference)
        if cell.difference > 10 * rounding:
            cell.wrong, cell.reason = True, f"wrong output: off by {cell.difference:.1e}"


def _time(
    case: Case,
    cells: Cells,
    calls: Mapping[str, Callable[[], object]],
    step: Callable[[str], object],
    machine: Machine,
    products: Collection[Product] = (),
) -> dict[Product, list[float]]:
    """Time calls and products in turns; the times of calls go into the cells, those of products are returned."""
    timers: dict[str | Product, Callable[[], float]] = {
        name: functools.partial(seconds, call, case.spec.device) for name, call in calls.items()
    }
    timers |= {product: functools.partial(machine.time, product) for product in products}
    times, failures = take_turns(timers, case.spec.repeats, lambda: step(f"{case.name}, in turns"))
    for name in calls:
        cells[name].seconds, cells[name].reason = times[name], failures.get(name)
    return {product: times[product] for product in products}


def _train(case: Case, machine: Machine, step: Callable[[str], object]) -> Cells:
    cells: Cells = {}
    calls: dict[str, Callable[[], object]] = {}
    for name, builder in training_columns(case.spec.amounts).items():
        if case.spec.wants(name):
            cells[name] = Cell()
            epoch = _set_up_training(case, builder, cells[name])
            if epoch is not None:
                calls[name] = epoch
            step(f"{case.name}, training, {name}")
    _time(case, cells, calls, step, machine)
    return cells


def _set_up_training(case: Case, builder: TrainingBuilder, cell: Cell) -> Callable[[], object] | None:
    """Build a column of training and check its gradients; the epoch to time, unless there is a reason not to."""
    try:
        trainee = builder(case)
        cell.parameters = sum(parameter.numel() for parameter in trainee.model.parameters())
        _check(case.graph, cell, trainee.gradient(), trainee.expected)
        if cell.reason is not None:
            return None
        epoch = trainee.epoch()
        epoch()  # warms up
    except Exception as error:  # code of others may raise anything; the table shows the error
        cell.reason = reason_of(error)
        return None
    return epoch
