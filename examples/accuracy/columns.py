"""The columns of the tables: each makes a smaller model of a trained dense one, or says why it does not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

import upscale_fx
from accuracy.rivals import NotApplicable, narrow_width, nearest_in_size, prune_with_torch_pruning
from accuracy.workloads import Workload

#: Fine-tuning runs for this share of the epochs that the dense model was trained for, at this share of its step size.
FINETUNE_EPOCHS, FINETUNE_LR = 0.25, 0.5


@dataclass
class Job:
    """A trained dense model and the amount to prune.

    Attributes:
        workload: the model and its data.
        dense: the trained model, in ``eval()``; never changed.
        fused: the same model, compiled with nothing pruned.
        amount: the share of every consumer's hidden input channels to remove.
        seed: seed of draws and training.
        obs_size: parameters of the OBS column's model, if known from before.
        notes: notes of a column about its model.
    """

    workload: Workload
    dense: nn.Module
    fused: nn.Module
    amount: float
    seed: int
    obs_size: int | None = None
    notes: list[str] = field(default_factory=list)

    def prune(self, *amount: float, **options: Any) -> nn.Module:
        """Return ``upscale_fx.prune`` of the dense model."""
        with self.workload.sparse():  # criteria call the model on all features
            return upscale_fx.prune(self.dense, *amount, example_inputs=self.workload.few, **options)

    @cached_property
    def obs(self) -> nn.Module:
        """The model of the OBS column."""
        return self.prune(self.amount, calibration=self.workload.calibration)

    @property
    def target(self) -> int:
        """The number of parameters for comparisons at equal size: that of the OBS column's model."""
        if self.obs_size is None:
            self.obs_size = count_parameters(self.obs)
        return self.obs_size


def count_parameters(model: nn.Module) -> int:
    """Return how many parameter entries a model has."""
    return sum(parameter.numel() for parameter in model.parameters())


def _dense(job: Job) -> nn.Module:
    return job.fused


def _random(job: Job) -> nn.Module:
    return job.prune(job.amount, criterion="random")


def _l2(job: Job) -> nn.Module:
    return job.prune(job.amount, criterion="l2")


def _l2_constrained(job: Job) -> nn.Module:
    return job.prune(job.amount, criterion="l2", constrained=True)


def _obs_shared(job: Job) -> nn.Module:
    # If all readers share a set, the size does not depend on which channels are in it.
    _, amount = nearest_in_size(lambda share: job.prune(share, criterion="l2", constrained=True), job.target)
    job.notes.append(f"amount {amount:.4g}")
    return job.prune(amount, constrained=True, calibration=job.workload.calibration)


def _torch_pruning(job: Job) -> nn.Module:
    model, ratio = prune_with_torch_pruning(job.dense, job.workload, job.target)
    job.notes.append(f"pruning_ratio {ratio:.4g}")
    return job.workload.fuse(model)


def _lasso(job: Job) -> nn.Module:
    return job.prune(job.amount, criterion="lasso", calibration=job.workload.calibration)


def _obs(job: Job) -> nn.Module:
    return job.obs


def _obs_finetuned(job: Job) -> nn.Module:
    compiled, recipe = copy.deepcopy(job.obs), job.workload.recipe
    with job.workload.sparse():
        result = upscale_fx.finetune(
            compiled,
            job.workload.batches(),
            epochs=max(1, round(FINETUNE_EPOCHS * recipe.epochs)),
            teacher=job.fused,
            lr=FINETUNE_LR * recipe.lr,
            validate=lambda model: job.workload.accuracy(model, "val"),
            patience=recipe.patience,
            progress=False,
        )
    job.notes.append(f"epoch {result.best} kept")
    return compiled.eval()


def _budget(job: Job) -> nn.Module:
    share = job.target / count_parameters(job.dense)
    return job.prune(budget=upscale_fx.Budget(params=share), calibration=job.workload.calibration)


def _narrow(job: Job) -> nn.Module:
    width, model = _narrow_untrained(job)
    epochs = job.workload.train(model)
    job.notes.append(f"width {width}, {epochs} epochs")
    return job.workload.fuse(model)


def _narrow_untrained(job: Job) -> tuple[int, nn.Module]:
    width = narrow_width(job.workload, job.target)
    torch.manual_seed(job.seed)
    return width, job.workload.build(width)


def _narrow_shape(job: Job) -> nn.Module:
    return job.workload.fuse(_narrow_untrained(job)[1])


@dataclass(frozen=True)
class Column:
    """A column of the tables.

    Attributes:
        title: the title in pages.
        make: returns the smaller model, compiled.
        meaning: the description in pages.
        shape: returns a model of the same shapes in less time, to measure latency; None: use `make`.
    """

    title: str
    make: Callable[[Job], nn.Module]
    meaning: str
    shape: Callable[[Job], nn.Module] | None = None


DENSE = "dense"
#: All columns by name, in the order of the tables.
COLUMNS: Mapping[str, Column] = {
    DENSE: Column("dense", _dense, "the trained model, nothing removed"),
    "random": Column("random", _random, 'channels drawn at random, `criterion="random"`'),
    "l2": Column("L2", _l2, "every reader drops the channels with the smallest weights"),
    "l2-constrained": Column(
        "L2 constrained", _l2_constrained, "the same with one set of channels for all readers, `constrained=True`"
    ),
    "torch-pruning": Column(
        "Torch-Pruning",
        _torch_pruning,
        "Torch-Pruning's group magnitudes on a model whose PyG `Linear` layers were swapped for torch's; its "
        "`pruning_ratio` is found by bisection so that parameters are nearest to those of OBS",
    ),
    "lasso": Column("LASSO", _lasso, 'channels chosen by LASSO regression, `criterion="lasso"`, with calibration'),
    "obs": Column(
        "OBS",
        _obs,
        "channels chosen by Optimal Brain Surgeon and the weights that stay refitted, the default with calibration",
    ),
    "obs-finetuned": Column(
        "OBS + fine-tuning",
        _obs_finetuned,
        "the same, then `finetune` towards the dense model's outputs, which uses no labels but to choose the epoch",
        shape=_obs,
    ),
    "obs-shared": Column(
        "OBS, shared sets",
        _obs_shared,
        "the same criterion and refit with one set of channels for all readers of a tensor, `constrained=True`; its "
        "amount is found by bisection so that parameters are nearest to those of OBS",
    ),
    "budget": Column(
        "budget", _budget, "amounts allocated to the layers under `Budget(params=...)`, the parameters that OBS has"
    ),
    "narrow": Column(
        "narrow dense",
        _narrow,
        "a narrower model of the same class, its parameters nearest to those of OBS, trained from scratch",
        shape=_narrow_shape,
    ),
}

__all__ = ["COLUMNS", "DENSE", "Column", "Job", "NotApplicable", "count_parameters"]
