"""Fine-tuning a pruned graph on a loss, or towards the outputs of the model it was pruned from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch import nn
from torch.optim import Optimizer

from upscale_fx.compiled.batches import Batches, Transform
from upscale_fx.compiled.ownership import uncached
from upscale_fx.compiled.progress import progress_bar
from upscale_fx.compiled.undisturbed import in_mode, modes_kept, modes_of
from upscale_fx.errors import InputError, ModeError, warn
from upscale_fx.training.distillation import Loss, Objective
from upscale_fx.training.loop import Epoch, Training


@dataclass(frozen=True)
class FinetuneResult:
    """The result of :func:`finetune`.

    Attributes:
        model: the trained model, in its state after the best epoch.
        history: all epochs; epoch 0 is the state before training.
        best: the number of the epoch whose state was kept.
    """

    model: nn.Module
    history: tuple[Epoch, ...]
    best: int

    def __str__(self) -> str:
        rows = [("*" if e.number == self.best else "", e.number, e.loss, e.score) for e in self.history]
        table = tabulate(rows, headers=["", "epoch", "loss", "score"], floatfmt=".4f", missingval="-")
        first, best = self.history[0].score, self.history[self.best].score
        return f"{table}\nkept epoch {self.best}: score {first:.4f} -> {best:.4f}"


def finetune(
    compiled: nn.Module,
    batches: Any,
    loss_fn: Loss | None = None,
    epochs: int = 10,
    *,
    teacher: nn.Module | None = None,
    teacher_weight: float = 0.5,
    temperature: float = 1.0,
    optimizer: Optimizer | None = None,
    lr: float = 1e-3,
    validate: Callable[[nn.Module], float] | None = None,
    patience: int | None = None,
    transform: Transform | None = None,
    progress: bool = True,
) -> FinetuneResult:
    """Train a pruned graph, or any module, in place, and leave it in its best state.

    The best state is the one after the epoch with the highest score. The state before the first step counts as epoch
    0, so the result never scores lower than the start. The model's mode is restored, also when training stops with an
    error, and frozen parameters stay as they are. Batch norm and dropout are in ``train()``; a graph that is for
    ``eval()`` only is trained in ``eval()``, with a warning. A model that is in ``train()``, with parts of it in
    ``eval()``, is trained in just these modes: a frozen backbone keeps its statistics.

    Random numbers come from torch's global generators: dropout draws from them, and so do loaders that shuffle or
    sample; evaluation and the teacher run in ``eval()`` and draw none. ``torch.manual_seed`` makes a run repeatable.

    Args:
        compiled: the module to train; it is changed.
        batches: one batch (a tuple, dictionary or ``Data``), or an iterable of batches (a list, a loader). An epoch is
            one pass over them; without ``validate`` a second pass scores it. They must be on the model's device.
        loss_fn: ``loss_fn(output, batch)``, a scalar; ``batch`` is one element of ``batches``.
        epochs: the largest number of epochs.
        teacher: a model whose outputs are to be matched, such as the model before pruning. The loss is
            ``training.distillation.distillation``: a divergence of softmaxes for outputs ``[..., C > 1]``, and a
            squared difference for ``C = 1`` and for vectors. The teacher is called in ``eval()``, without gradients,
            and gets its mode back.
        teacher_weight: with both, the loss is ``(1 - teacher_weight) * loss_fn + teacher_weight * distillation``.
        temperature: ``T``; above 1, small logits count for more.
        optimizer: takes the steps, such as one from :func:`transfer_optimizer`; by default Adam with ``lr``.
        lr: learning rate of that Adam.
        validate: ``validate(compiled)``, a number, higher is better; called in ``eval()``, without gradients.
        patience: stop after this many epochs in a row without a better score; None: never.
        transform: makes of a batch a tuple of positional or a dictionary of keyword arguments; by default see
            :func:`upscale_fx.compiled.batches.arguments_of`.
        progress: show a bar, where standard error is a terminal.

    Raises:
        InputError: neither a loss nor a teacher; no batches, or a generator where several passes are needed; a batch
            that does not fit; no parameter to train; an optimizer of other parameters; a number out of range.
        UpscaleError: the loss became infinite or NaN.
    """
    _check_numbers(epochs, patience, teacher_weight, temperature)
    stream = _stream(batches, epochs, validate is None)
    modes = modes_of(compiled) if compiled.training else {}
    only_eval = not modes and not _can_train(compiled)
    objective = Objective(compiled, loss_fn, teacher, teacher_weight, temperature, transform)
    optimizer = _optimizer(compiled, optimizer, lr)
    with modes_kept(compiled), _as_teacher(teacher):
        training = Training(objective, stream, optimizer, validate, only_eval, modes)
        total = None if stream.length is None else epochs * stream.length
        with progress_bar(total=total, desc="fine-tune", unit="batch", shown=progress) as bar:
            training.run(epochs, patience, bar)
    return FinetuneResult(compiled, tuple(training.history), training.best)


def _check_numbers(epochs: int, patience: int | None, teacher_weight: float, temperature: float) -> None:
    if epochs < 1:
        raise InputError(f"epochs must be at least 1, got {epochs}")
    if patience is not None and patience < 1:
        raise InputError(f"patience must be at least 1 epoch, or None, got {patience}")
    if not 0 <= teacher_weight <= 1:
        raise InputError(f"teacher_weight must be between 0 and 1, got {teacher_weight}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise InputError(f"temperature must be a positive number, got {temperature}")


def _stream(batches: Any, epochs: int, scored: bool) -> Batches:
    """The batches; those of a generator are stored if its only epoch is also scored on them."""
    stream = Batches(batches, replay=epochs == 1 and scored)
    if stream.one_shot and epochs > 1:
        raise InputError(
            f"a {type(batches).__name__} gives its batches once, and {epochs} epochs go over them {epochs} times; pass "
            f"a list of batches, or a loader"
        )
    return stream


def _optimizer(compiled: nn.Module, optimizer: Optimizer | None, lr: float) -> Optimizer:
    trained = [parameter for parameter in compiled.parameters() if parameter.requires_grad]
    if not trained:
        raise InputError(
            f"no parameter of this {type(compiled).__name__} requires a gradient: there is nothing to train"
        )
    if optimizer is None:
        return torch.optim.Adam(trained, lr=lr)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not held & {id(parameter) for parameter in trained}:
        raise InputError(
            f"the {type(optimizer).__name__} optimises none of this model's parameters; one made for the model before "
            f"pruning goes on with transfer_optimizer(optimizer, model, compiled)"
        )
    return optimizer


def _can_train(model: nn.Module) -> bool:
    """Whether a model can be trained in ``train()``; warns if it cannot."""
    with modes_kept(model):
        try:
            model.train()
        except ModeError as error:
            text = f"trained in eval(), where dropout is off and batch norms do not change their statistics: {error}"
            warn(text)
            return False
    return True


@contextmanager
def _as_teacher(teacher: nn.Module | None) -> Iterator[None]:
    """Within the block, a teacher is in ``eval()``, and its answers do not depend on what its caches hold."""
    if teacher is None:
        yield
        return
    with in_mode(teacher, training=False), uncached(teacher):
        yield
