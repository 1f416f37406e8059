"""Timing in turns: every round runs each column once, so that a busy moment of the machine slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)

#: The largest difference, relative to a node's logits, that is rounding (float32, sums over many neighbours).
ROUNDING = 1e-3


def seconds(call: Callable[[], object], device: str) -> float:
    """Seconds of one call, until the device is done."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device != "cpu":
        torch.cuda.synchronize()


def take_turns(
    timers: Mapping[Key, Callable[[], float]], rounds: int, ended: Callable[[], object] = lambda: None
) -> tuple[dict[Key, list[float]], dict[Key, str]]:
    """Time several calls in turns, after they have warmed up.

    Args:
        timers: each makes one call and returns its seconds.
        rounds: the number of rounds.
        ended: called after each round.

    Returns:
        The seconds of each round, and the reason of each timer that failed; it is not called again.
    """
    times: dict[Key, list[float]] = {name: [] for name in timers}
    failures: dict[Key, str] = {}
    for _ in range(rounds):
        for name, timer in timers.items():
            if name not in failures:
                try:
                    times[name].append(timer())
                except Exception as error:  # code of others may raise anything; the table shows the error
                    failures[name] = reason_of(error)
        ended()
    return times, failures


def reason_of(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def difference(actual: Tensor, expected: Tensor) -> float:
    """The largest difference of a row, relative to the largest entry of that row, or of the median row if larger.

    Infinity if the shapes differ, or a number is not finite.
    """
    if actual.shape != expected.shape or not bool(torch.isfinite(actual).all()):
        return float("inf")
    size = expected.abs().amax(dim=1)
    usual = size[size > 0].median() if bool(size.any()) else size.new_ones(())
    return float(((actual - expected).abs().amax(dim=1) / size.clamp(min=float(usual))).max())
