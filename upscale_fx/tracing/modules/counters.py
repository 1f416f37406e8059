"""Numbers that notice when a branch depends on them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
_ALONE = ("neg", "pos", "abs")
_BRANCHES = ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__", "__bool__", "__index__", "__round__",
             "__floor__", "__ceil__", "__trunc__")  # fmt: skip


class _Counting:
    """A number with a name; what is computed from it notices too."""

    name: str
    uses: list[str]


class _Int(_Counting, int):
    __hash__ = int.__hash__


class _Float(_Counting, float):
    __hash__ = float.__hash__


def counting(value: Any, name: str, uses: list[str]) -> Any:
    """Return a number equal to ``value`` that adds ``name`` to ``uses`` when it is compared or becomes a branch."""
    kind: Any = _Float if isinstance(value, float) else _Int
    number = kind(value)
    number.name, number.uses = name, uses
    return number


def _computed(function: Callable[..., Any], base: type, swapped: bool = False) -> Callable[..., Any]:
    def apply(self: Any, *others: Any) -> Any:
        if others and not isinstance(others[0], int | float):
            return (
                NotImplemented  # a tensor: it computes with the plain number, and the outputs show whether it matters
            )
        plain = [base(self), *(float(o) if isinstance(o, float) else int.__int__(o) for o in others)]
        result = function(*(reversed(plain) if swapped else plain))
        return counting(result, self.name, self.uses) if isinstance(result, int | float) else result

    return apply


def _noticed(base: type, method: str) -> Callable[..., Any]:
    plain = getattr(base, method)

    def apply(self: Any, *others: Any) -> Any:
        self.uses.append(self.name)
        return plain(self, *others)

    return apply


for _kind, _base in ((_Int, int), (_Float, float)):
    for _name in _ARITHMETIC:
        _function = getattr(operator, _name)
        setattr(_kind, f"__{_name}__", _computed(_function, _base))
        setattr(_kind, f"__r{_name}__", _computed(_function, _base, swapped=True))
    for _name in _ALONE:
        setattr(_kind, f"__{_name}__", _computed(getattr(operator, _name), _base))
    for _name in _BRANCHES:
        if hasattr(_base, _name):
            setattr(_kind, _name, _noticed(_base, _name))
