"""Amounts by consumer, from the user's number, or numbers by names and patterns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from upscale_fx.errors import PatternError
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.masking.options import Amount, check_amount


def amounts_of(consumers: Sequence[Consumer], amount: Amount) -> dict[str, float]:
    """By the names of consumers, the share of their channels to remove; 0 where no pattern matches.

    Raises:
        AmountError: an amount is not a number in [0, 1).
        PatternError: a pattern matches no consumer.
    """
    if not isinstance(amount, Mapping):
        value = check_amount(amount, "amount")
        return {consumer.name: value for consumer in consumers}
    amounts = {consumer.name: 0.0 for consumer in consumers}
    for pattern, value in amount.items():
        checked = check_amount(value, f"amount[{pattern!r}]")
        for name in _matching(consumers, [pattern], "amount"):
            amounts[name] = checked
    return amounts


def ignored_names(consumers: Sequence[Consumer], ignore: Any) -> set[str]:
    """The names of consumers to ignore, from a name, a pattern or a list of them.

    Raises:
        PatternError: a pattern is not a string, or matches no consumer.
    """
    if isinstance(ignore, str):
        return _matching(consumers, [ignore], "ignore")
    if not isinstance(ignore, Iterable):
        raise PatternError(f"ignore takes a name, a pattern or a list of them, got {ignore!r}")
    return _matching(consumers, list(ignore), "ignore")


def _matching(consumers: Sequence[Consumer], patterns: Sequence[Any], argument: str) -> set[str]:
    """The names that match a pattern: the name itself, the path of a module around it, or wildcards."""
    names = [consumer.name for consumer in consumers]
    matched: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise PatternError(f"{argument} takes names or patterns (strings), got {pattern!r}; valid names: {names}")
        hits = {name for name in names if name == pattern} or {
            name for name in names
            if any(fnmatchcase(part, pattern) or part.startswith(pattern + ".") for part in (name, *name.split("@")))
        }  # fmt: skip
        if not hits:
            raise PatternError(f"{argument} pattern {pattern!r} matches no consumer; valid names: {names}")
        matched |= hits
    return matched
