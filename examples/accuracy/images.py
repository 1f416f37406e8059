"""Vision GNN on handwritten digits: 1,797 images of 8 x 8 pixels that come with scikit-learn."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from accuracy.fitting import Recipe, fit
from accuracy.workloads import Workload
from upscale_fx.models import ViG

IMAGE_RECIPE = Recipe(epochs=40, patience=15, lr=2e-3, weight_decay=1e-4, dropout=0.1, hidden=48)
DEPTH, NEIGHBOURS, PATCH, SIDE, CLASSES = 2, 4, 2, 8, 10
#: Share of the images to train on, and to validate with; the rest is for the test.
SHARES = 0.6, 0.2
_BATCH = 64

Part = tuple[Tensor, Tensor]


@lru_cache(maxsize=1)
def load_digits() -> dict[str, Part]:
    """Return images ``[B, 1, 8, 8]`` between 0 and 1 and labels ``[B]`` of the parts train, val and test.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets  # noqa: PLC0415 - optional
    except ImportError as error:
        raise ImportError("the images come with scikit-learn: pip install scikit-learn, or ask for --no-vig") from error
    digits = datasets.load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(digits.target, dtype=torch.long)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    first, second = round(SHARES[0] * len(order)), round((SHARES[0] + SHARES[1]) * len(order))
    parts = {"train": order[:first], "val": order[first:second], "test": order[second:]}
    return {name: (images[chosen], labels[chosen]) for name, chosen in parts.items()}


class ImageWorkload(Workload):
    """Vision GNN on the digits.

    Args:
        recipe: how it is trained.
    """

    def __init__(self, recipe: Recipe = IMAGE_RECIPE) -> None:
        self.parts = load_digits()
        self.model, self.data, self.title = "vig", "digits", "ViG on digits"
        self.recipe, self.multiple, self.output_layer = recipe, 1, "classifier"
        images = self.parts["train"][0]
        self.inputs, self.few, self.calibration = (images,), (images[:4],), (images,)
        self.rows = {"B": 1.0}

    def build(self, hidden: int | None = None) -> nn.Module:
        """Return an untrained model; see :meth:`Workload.build`."""
        width = self.recipe.hidden if hidden is None else hidden
        return ViG(
            CLASSES, width=width, depth=DEPTH, neighbours=NEIGHBOURS, patch=PATCH, image=SIDE, channels=1,
            dropout=self.recipe.dropout,
        )  # fmt: skip

    def train(self, model: nn.Module) -> int:
        """Train a model on batches of images in random order; see :meth:`Workload.train`."""
        compiled = self.fuse(model)
        images, labels = self.parts["train"]

        def run_epoch(optimizer: Optimizer) -> None:
            for chosen in torch.split(torch.randperm(len(labels)), _BATCH):
                optimizer.zero_grad()
                F.cross_entropy(compiled(images[chosen]), labels[chosen]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()

        def score() -> tuple[float, float]:
            validation, expected = self.parts["val"]
            logits = compiled(validation)
            return _share_right(logits, expected), -float(F.cross_entropy(logits, expected))

        epochs = fit(compiled, self.recipe, run_epoch, score, self.title)
        model.load_state_dict(compiled.state_dict())
        model.eval()
        return epochs

    @torch.no_grad()
    def accuracy(self, compiled: nn.Module, part: str) -> float:
        """Return the share of the images of a part whose class is predicted."""
        images, labels = self.parts[part]
        return _share_right(compiled.eval()(images), labels)

    def batches(self) -> list[tuple[Any, ...]]:
        """Return the training images, a batch at a time."""
        return [(images,) for images in torch.split(self.parts["train"][0], _BATCH)]

    def sparse(self) -> AbstractContextManager[Any]:
        """Images are dense."""
        return nullcontext()


def _share_right(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(dim=-1) == labels).float().mean())
