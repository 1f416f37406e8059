"""What pruned models are compared with at equal parameters: Torch-Pruning's, and narrow ones trained from scratch."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings

import torch
from torch import nn

from accuracy.workloads import Workload
from compare import swap_linears, torch_pruning_step

#: Trials of the bisection. A ratio is known to 0.1 % of the channels then, and there are hundreds of channels.
_TRIALS = 10


class NotApplicable(Exception):
    """A column has no model for a cell; the text says why in a few words."""


def prune_with_torch_pruning(dense: nn.Module, workload: Workload, target: int) -> tuple[nn.Module, float]:
    """Prune with Torch-Pruning so that parameters come as near to a number as they get.

    Args:
        dense: the model; never changed.
        workload: what it is and what it is called with.
        target: how many parameters there should be.

    Returns:
        The pruned model and the `pruning_ratio` it took.

    Raises:
        NotApplicable: Torch-Pruning fails on this model, or leaves it as it was.
        ImportError: it is not installed.
    """
    full = _count(dense)
    low, high, ratio = 0.0, 1.0, 0.5
    best: tuple[int, float, nn.Module] | None = None
    for _ in range(_TRIALS):
        model = _torch_pruning_at(dense, workload, ratio)
        count = _count(model)
        if best is None and count == full:
            raise NotApplicable("unchanged, no error")
        if best is None or abs(count - target) < abs(best[0] - target):
            best = count, ratio, model
        if count == target:
            break
        low, high = (ratio, high) if count > target else (low, ratio)
        ratio = (low + high) / 2
    if best is None:
        raise NotApplicable("no trial")
    return best[2].eval(), best[1]


def _torch_pruning_at(dense: nn.Module, workload: Workload, ratio: float) -> nn.Module:
    model, silence = swap_linears(copy.deepcopy(dense)), io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        warnings.simplefilter("ignore")
        try:
            torch_pruning_step(model, workload.few, ratio, workload.output_layer)
            with torch.no_grad():
                model(*workload.few)
        except ImportError:
            raise
        except Exception as error:  # code of others may raise anything; the cell says what it was
            raise NotApplicable(f"fails: {type(error).__name__}") from error
    return model


def narrow_width(workload: Workload, target: int) -> int:
    """Return the hidden width of a workload's model with which its parameters are nearest to a number.

    Of two equally near ones the narrower; never wider than the dense model.
    """
    low, high = 1, workload.recipe.hidden // workload.multiple
    while high - low > 1:  # more channels, more parameters
        middle = (low + high) // 2
        low, high = (middle, high) if _count_at(workload, middle) <= target else (low, middle)
    nearest = min((low, high), key=lambda units: (abs(_count_at(workload, units) - target), units))
    return nearest * workload.multiple


def _count_at(workload: Workload, units: int) -> int:
    with torch.device("meta"):
        return _count(workload.build(units * workload.multiple))


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
