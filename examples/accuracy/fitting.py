"""One training loop for all models of the tables, with early stopping; it keeps the weights that validated best."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Adam, Optimizer
from tqdm import tqdm


@dataclass(frozen=True)
class Recipe:
    """How every model of a dataset is trained with Adam, dense and narrow ones alike.

    Attributes:
        epochs: the largest number of epochs.
        patience: stop after this many epochs without a better validation accuracy.
        lr: step size.
        weight_decay: factor of the squared weights in the loss.
        dropout: share of hidden values to drop.
        hidden: width of the dense model.
    """

    epochs: int = 200
    patience: int = 50
    lr: float = 0.01
    weight_decay: float = 5e-4
    dropout: float = 0.5
    hidden: int = 128


def fit(
    model: nn.Module,
    recipe: Recipe,
    run_epoch: Callable[[Optimizer], None],
    score: Callable[[], tuple[float, float]],
    title: str,
) -> int:
    """Train a model in place and leave it in ``eval()`` with its best weights.

    Args:
        model: the model to train.
        recipe: how to train it.
        run_epoch: takes the steps of one epoch with an optimizer; the model is in ``train()``.
        score: validation accuracy and minus the validation loss, which decides between equal accuracies; called in
            ``eval()``, without gradients.
        title: title of the progress bar.

    Returns:
        The number of epochs that were run.
    """
    optimizer = Adam(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    best, best_epoch, best_state, epoch = (-1.0, 0.0), 0, model.state_dict(), 0
    for epoch in tqdm(range(1, recipe.epochs + 1), desc=title, unit="epoch", leave=False, disable=None):
        model.train()
        run_epoch(optimizer)
        model.eval()
        with torch.no_grad():
            scored = score()
        if scored > best:
            best, best_epoch, best_state = scored, epoch, copy.deepcopy(model.state_dict())
        elif epoch - best_epoch >= recipe.patience:
            break
    model.load_state_dict(best_state)
    return epoch
