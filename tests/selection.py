"""Which cases of a table ``make test`` runs: the others are marked slow, and ``make test-all`` runs them too."""

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import pytest

ParameterSet = type(pytest.param())


def case(value: Any, fast: bool) -> Any:
    """One value, a tuple of them, or parameters with an id, as parameters of a test."""
    marks = [] if fast else [pytest.mark.slow]
    if isinstance(value, ParameterSet):
        return pytest.param(*value.values, id=value.id, marks=[*value.marks, *marks])
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=marks)


def every(step: int, values: Iterable[Any], start: int = 0) -> list[Any]:
    """All values as parameters; all but every ``step``-th, from the one at ``start`` on, are slow."""
    return [case(value, number % step == start) for number, value in enumerate(values)]


def only(fast: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """All values as parameters; all but those named first are slow."""
    kept = list(fast)
    return [case(value, value in kept) for value in values]


def first_of_each(values: Iterable[Any], key: Callable[[Any], Hashable], step: int = 1) -> list[Any]:
    """All values as parameters; all but the first one of every ``step``-th key are slow."""
    seen: set[Hashable] = set()
    parameters = []
    for value in values:
        is_first = key(value) not in seen
        parameters.append(case(value, is_first and len(seen) % step == 0))
        seen.add(key(value))
    return parameters
