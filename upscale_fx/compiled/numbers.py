"""What counts as a number where a user gives one: booleans do not, though Python takes them for integers."""

from __future__ import annotations

from numbers import Integral, Real


def is_number(value: object) -> bool:
    """Whether a value is a real number (NaN and infinities are), not a boolean."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_integer(value: object) -> bool:
    """Whether a value is an integer, not a boolean."""
    return isinstance(value, Integral) and not isinstance(value, bool)
