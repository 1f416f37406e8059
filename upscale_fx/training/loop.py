"""The loop of :func:`upscale_fx.training.finetune.finetune`: steps, scores, and the best state of the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from upscale_fx.compiled.batches import Batches
from upscale_fx.compiled.undisturbed import set_modes
from upscale_fx.errors import InputError, UpscaleError
from upscale_fx.training.distillation import Objective


@dataclass(frozen=True)
class Epoch:
    """One pass over the batches.

    Attributes:
        number: 0 is the state before any step.
        loss: the mean loss over the batches, each at its training step; None in epoch 0.
        score: the result of ``validate``, higher is better; without it, minus the mean loss in ``eval()``.
    """

    number: int
    loss: float | None
    score: float


@dataclass
class Training:
    """Epochs, their scores, and the best state so far; ``modes`` are those of the steps, if not all in ``train()``."""

    objective: Objective
    batches: Batches
    optimizer: Optimizer
    validate: Callable[[nn.Module], float] | None
    only_eval: bool
    modes: Mapping[nn.Module, bool] = field(default_factory=dict)
    history: list[Epoch] = field(default_factory=list)
    best: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)

    def run(self, epochs: int, patience: int | None, bar: Any) -> None:
        """Train, and leave the model in its best state, also after an error."""
        model = self.objective.model
        self.record(Epoch(0, None, self.score(0)))
        try:
            for number in range(1, epochs + 1):
                loss = self.train(number, bar)
                self.record(Epoch(number, loss, self.score(number)))
                bar.set_postfix(epoch=number, loss=f"{loss:.4g}", score=f"{self.history[-1].score:.4g}")
                if patience is not None and number - self.best >= patience:
                    break
        finally:
            self.optimizer.zero_grad()
            model.zero_grad()  # an optimizer may hold only some of the parameters
            with torch.no_grad():
                for name, value in _tensors(model).items():
                    value.copy_(self.state[name])

    def record(self, epoch: Epoch) -> None:
        """Add an epoch to the history, and keep its state if it is the best; NaN is worse than any number."""
        if not self.history or _rank(epoch) > _rank(self.history[self.best]):
            self.best = epoch.number
            self.state = {name: value.detach().clone() for name, value in _tensors(self.objective.model).items()}
        self.history.append(epoch)

    def train(self, number: int, bar: Any) -> float:
        """One epoch of steps; the mean of their losses."""
        if self.modes:
            set_modes(self.modes)
        else:
            self.objective.model.train(not self.only_eval)
        total, count = 0.0, 0
        with torch.enable_grad():
            for batch in self.batches:
                self.optimizer.zero_grad()
                loss = self.objective(batch)
                total, count = total + _finite(loss, number), count + 1
                if not loss.requires_grad:
                    raise InputError("the loss does not depend on any parameter that requires a gradient")
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                bar.update()
        return total / count

    def score(self, number: int) -> float:
        """The score of the model now, higher is better."""
        self.objective.model.eval()
        with torch.no_grad():
            if self.validate is not None:
                return float(self.validate(self.objective.model))
            losses = [_finite(self.objective(batch), number) for batch in self.batches]
        return -sum(losses) / len(losses)


def _rank(epoch: Epoch) -> float:
    return -math.inf if math.isnan(epoch.score) else epoch.score


def _finite(loss: Tensor, number: int) -> float:
    """The loss as a number.

    Raises:
        UpscaleError: it is infinite or NaN.
    """
    value = float(loss.detach())
    if math.isfinite(value):
        return value
    if not number:
        raise UpscaleError(f"the loss is {value} before any step: look for NaN in the batches, or in the loss function")
    raise UpscaleError(
        f"the loss became {value} in epoch {number}; the model is back in its best state before. Lower the learning "
        f"rate (lr, or that of the optimizer), or look for NaN in the batches"
    )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
