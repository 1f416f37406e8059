"""Latencies that can be compared: all models in one run, in turns, medians with their spread.

The latency of one model alone says little on a shared machine. Here every round runs every model once, each round
starting with another model, and each time is compared with that of the first model *in the same round*.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

#: Untimed runs of every model: they compile kernels and allocate memory.
_WARM_UPS = 2
#: Timed rounds: as many as fit into the seconds, within these bounds.
_SECONDS, _FEWEST, _MOST = 15.0, 7, 60


@dataclass(frozen=True)
class Latency:
    """The time of one call, in milliseconds and relative to the dense model: medians and quartiles over rounds.

    Attributes:
        median: milliseconds of a call.
        spread: first and third quartile of these.
        ratio: time divided by the dense model's in the same round; below 1 is faster.
        ratio_spread: first and third quartile of these.
        rounds: how many rounds there were.
    """

    median: float
    spread: tuple[float, float]
    ratio: float
    ratio_spread: tuple[float, float]
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.4g} [{self.spread[0]:.4g}, {self.spread[1]:.4g}]"

    @property
    def ratio_text(self) -> str:
        """The ratio with its quartiles."""
        return f"{self.ratio:.3f} [{self.ratio_spread[0]:.3f}, {self.ratio_spread[1]:.3f}]"


def latencies(
    calls: Sequence[Callable[[], object]], device: torch.device, ended: Callable[[], object] = lambda: None
) -> list[Latency]:
    """Time calls in turns, without gradients; all are compared with the first.

    Args:
        calls: each runs one model once.
        device: where they run; a GPU is synchronised.
        ended: called after each round.
    """
    with torch.inference_mode():
        for _ in range(_WARM_UPS):
            warm_up = [_seconds(call, device) for call in calls]
        rounds = int(np.clip(_SECONDS / max(sum(warm_up), 1e-9), _FEWEST, _MOST))
        times = np.empty((len(calls), rounds))
        for number in range(rounds):
            for place in range(len(calls)):
                turn = (place + number) % len(calls)
                times[turn, number] = _seconds(calls[turn], device)
            ended()
    ratios = times / times[:1]
    return [_summary(1e3 * taken, ratio) for taken, ratio in zip(times, ratios, strict=True)]


def _summary(times: np.ndarray[Any, Any], ratios: np.ndarray[Any, Any]) -> Latency:
    low, median, high = (float(value) for value in np.quantile(times, (0.25, 0.5, 0.75)))
    least, ratio, most = (float(value) for value in np.quantile(ratios, (0.25, 0.5, 0.75)))
    return Latency(median, (low, high), ratio, (least, most), len(times))


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
