"""Other models with equal numbers of parameters: Torch-Pruning's, and narrow ones trained from scratch."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable

import torch
from torch import nn

from accuracy.workloads import Workload
from compare import swap_linears, torch_pruning_step

#: Trials of the bisection: they determine a ratio to 0.1 %, and there are hundreds of channels.
_TRIALS = 10
#: The first share of a bisection.
_FIRST = 0.5


class NotApplicable(Exception):
    """A column has no model for a cell; the text says why in a few words."""


def prune_with_torch_pruning(dense: nn.Module, workload: Workload, target: int) -> tuple[nn.Module, float]:
    """Prune with Torch-Pruning to the number of parameters nearest to ``target``.

    Args:
        dense: the model; never changed.
        workload: the model's workload, with arguments of a call.
        target: the number of parameters to reach.

    Returns:
        The pruned model and the `pruning_ratio` it took.

    Raises:
        NotApplicable: Torch-Pruning fails on this model, or leaves it unchanged.
        ImportError: it is not installed.
    """
    full = _count(dense)

    def make(ratio: float) -> nn.Module:
        model = torch_pruning_at(dense, workload, ratio)
        if ratio == _FIRST and _count(model) == full:
            raise NotApplicable("unchanged, no error")
        return model

    model, ratio = nearest_in_size(make, target)
    return model.eval(), ratio


def nearest_in_size(make: Callable[[float], nn.Module], target: int) -> tuple[nn.Module, float]:
    """Bisect for the share whose model's parameters are nearest to a number.

    Args:
        make: returns the model pruned by a share in (0, 1); the larger the share, the fewer its parameters.
        target: the number of parameters to reach.

    Returns:
        The nearest of the models that were made, and its share.
    """
    low, high, share = 0.0, 1.0, _FIRST
    best: list[tuple[int, float, nn.Module]] = []
    for _ in range(_TRIALS):
        model = make(share)
        count = _count(model)
        best = [min([*best, (count, share, model)], key=lambda trial: abs(trial[0] - target))]
        if count == target:
            break
        low, high = (share, high) if count > target else (low, share)
        share = (low + high) / 2
    return best[0][2], best[0][1]


def torch_pruning_at(dense: nn.Module, workload: Workload, ratio: float) -> nn.Module:
    """The model with a ratio of the channels of every layer removed by Torch-Pruning."""
    model, silence = swap_linears(copy.deepcopy(dense)), io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        warnings.simplefilter("ignore")
        try:
            torch_pruning_step(model, workload.few, ratio, workload.output_layer)
            with torch.no_grad():
                model(*workload.few)
        except ImportError:
            raise
        except Exception as error:  # code of others may raise anything; the cell shows the error
            raise NotApplicable(f"fails: {type(error).__name__}") from error
    return model


def narrow_width(workload: Workload, target: int) -> int:
    """Return the hidden width at which a workload's model has nearest to ``target`` parameters.

    Of two equally near widths it is the smaller one, and never larger than that of the dense model.
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
