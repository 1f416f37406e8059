"""Statistics of cells: means and spreads over seeds, and comparisons of columns cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import TypeVar

from tabulate import tabulate

from accuracy.columns import COLUMNS, DENSE
from accuracy.data import GRAPHS
from accuracy.store import Cell, Key
from accuracy.workloads import MODELS

T = TypeVar("T")

#: The text of a cell that is not filled yet.
PENDING = "not run"


@dataclass(frozen=True)
class Case:
    """A cell of the tables without its seed."""

    model: str
    data: str
    amount: float


class Results:
    """The cells of a page.

    Args:
        keys: the cells of the page.
        cells: the cells that are filled.
    """

    def __init__(self, keys: Sequence[Key], cells: Mapping[Key, Cell]) -> None:
        self.keys = keys
        self.cells = {key: cells[key] for key in keys if key in cells}
        self.datasets = _distinct(key.data for key in keys)
        self.models = _distinct(key.model for key in keys)
        self.amounts = sorted(_distinct(key.amount for key in keys if key.column != DENSE))
        self.columns = _distinct(key.column for key in keys if key.column != DENSE)
        self.cases = _distinct(Case(key.model, key.data, key.amount) for key in keys if key.column != DENSE)
        self._by_case: dict[tuple[Case, str], list[Key]] = {}
        for key in keys:
            self._by_case.setdefault((Case(key.model, key.data, key.amount), key.column), []).append(key)

    def keys_of(self, case: Case, column: str) -> list[Key]:
        """Return the cells of all seeds."""
        return self._by_case.get((case, column), [])

    def drop(self, key: Key) -> float | None:
        """Return the points of accuracy that a cell lost to its dense model, or None where there is no number."""
        cell, dense = self.cells.get(key), self.cells.get(_dense(key))
        if cell is None or dense is None or cell.accuracy is None or dense.accuracy is None:
            return None
        return 100 * (dense.accuracy - cell.accuracy)

    def share(self, key: Key, name: str) -> float | None:
        """Return a cell's parameters or MACs as a share of its dense model's, or None where there is no number."""
        cell, dense = self.cells.get(key), self.cells.get(_dense(key))
        if cell is None or dense is None:
            return None
        value, whole = getattr(cell, name), getattr(dense, name)
        return None if value is None or not whole else value / whole

    def mean(self, case: Case, column: str, value: Callable[[Key], float | None]) -> float | None:
        """Return the mean of a value over seeds, or None where no seed has one."""
        values = _numbers(value(key) for key in self.keys_of(case, column))
        return fmean(values) if values else None

    def text(self, case: Case, column: str) -> str:
        """Return the text of a cell: drop and spread over seeds, or why there is none."""
        keys = self.keys_of(case, column)
        if drops := _numbers(self.drop(key) for key in keys):
            return with_spread(drops)
        filled = [self.cells[key] for key in keys if key in self.cells]
        if not filled:
            return PENDING
        cell = filled[0]
        return f"error: {cell.error.split(':')[0]}" if cell.error else cell.reason or "no dense model"

    def average(self, amount: float, column: str) -> str:
        """Return the mean drop over all models and data, with the typical spread of a cell over seeds."""
        cases = [case for case in self.cases if case.amount == amount]
        by_case = [_numbers(self.drop(key) for key in self.keys_of(case, column)) for case in cases]
        by_case = [drops for drops in by_case if drops]
        if not by_case:
            return "-"
        spreads = [stdev(drops) ** 2 for drops in by_case if len(drops) > 1]
        spread = f" ± {fmean(spreads) ** 0.5:.1f}" if spreads else ""
        fewer = "" if len(by_case) == len(cases) else f" ({len(by_case)} of {len(cases)})"
        return f"{number(fmean(fmean(drops) for drops in by_case))}{spread}{fewer}"

    def pairs(self, column: str, reference: str, amount: float | None = None) -> list[tuple[Key, float]]:
        """Return the cells that both columns have, with the points by which `column` is more accurate there."""
        pairs = []
        for key in self.keys:
            if key.column == column and (amount is None or key.amount == amount):
                mine, other = self.drop(key), self.drop(replace(key, column=reference))
                if mine is not None and other is not None:
                    pairs.append((key, other - mine))
        return pairs


def _dense(key: Key) -> Key:
    return replace(key, column=DENSE, amount=0.0)


def _numbers(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _distinct(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))


def with_spread(values: Sequence[float], decimals: int = 1) -> str:
    """Return ``mean ± standard deviation``, or the mean alone of one number."""
    spread = f" ± {stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{number(fmean(values), decimals)}{spread}"


def number(value: float, decimals: int = 1) -> str:
    """Return a number as tables show it: never a negative zero."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows as a table of a Markdown file."""
    return tabulate([dict(row) for row in rows], headers="keys", tablefmt="github", disable_numparse=True)


def model_title(name: str) -> str:
    """Return the title of a model."""
    return MODELS[name][1] if name in MODELS else "ViG"


def data_title(name: str) -> str:
    """Return the title of a dataset."""
    return GRAPHS.get(name, name)


def column_title(name: str) -> str:
    """Return the title of a column."""
    return COLUMNS[name].title


def cell_title(key: Key) -> str:
    """Return the name of a cell, as text."""
    return f"{model_title(key.model)} on {data_title(key.data)} at {key.amount:g}, seed {key.seed}"
