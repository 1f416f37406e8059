"""Workloads: a model on its data, with how to build, train, evaluate and prune it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

import upscale_fx
from accuracy.data import Graph
from accuracy.fitting import Recipe, fit
from residual_gcn import ResidualGCN
from upscale_fx.models import SAGE, GATv2, GraphTransformer, JKNet, SimpleGCN

LAYERS = 3
#: Models on graphs by name: how each is built, its title in pages, a divisor of its width, and the layer that
#: computes its logits.
MODELS: dict[str, tuple[Callable[..., nn.Module], str, int, str]] = {
    "gcn": (SimpleGCN, "SimpleGCN", 1, f"convs.{LAYERS - 1}"),
    "sage": (SAGE, "SAGE", 1, f"convs.{LAYERS - 1}"),
    "gatv2": (GATv2, "GATv2, 4 heads", 4, f"convs.{LAYERS - 1}"),
    "transformer": (GraphTransformer, "GraphTransformer, 4 heads", 4, f"convs.{LAYERS - 1}"),
    "jknet": (JKNet, "JKNet, cat", 1, "lin"),
    "resgcn": (ResidualGCN, "ResidualGCN, batch norm", 1, "lin"),
}
RECIPES = {
    "cora": Recipe(),
    "citeseer": Recipe(),
    "pubmed": Recipe(),
    "photo": Recipe(epochs=150, patience=40, weight_decay=0),
    "cs": Recipe(epochs=100),
    "physics": Recipe(epochs=100),
    "generated": Recipe(),
}


class Workload(ABC):
    """A model on its data.

    Attributes:
        model: name of the model.
        data: name of the data.
        title: the name of both in progress bars.
        recipe: how it is trained.
        multiple: its hidden width is a multiple of this.
        output_layer: path of the module that computes the logits.
        inputs: arguments of a call on all inputs of training, without labels.
        few: arguments of a small call, for tracing.
        calibration: arguments of the calibration call.
        rows: numbers of rows by kind, per node or per image; MACs are counted per node or image.
    """

    model: str
    data: str
    title: str
    recipe: Recipe
    multiple: int
    output_layer: str
    inputs: tuple[Any, ...]
    few: tuple[Any, ...]
    calibration: tuple[Any, ...]
    rows: dict[str, float]

    @abstractmethod
    def build(self, hidden: int | None = None) -> nn.Module:
        """Return an untrained model, of the recipe's width by default; weights are torch's next random numbers.

        Raises:
            ValueError: the model cannot have this width.
        """

    @abstractmethod
    def train(self, model: nn.Module) -> int:
        """Train a model in place, leave it in ``eval()`` with its best weights, and return how many epochs it took."""

    @abstractmethod
    def accuracy(self, compiled: nn.Module, part: str) -> float:
        """Return the share of a part, ``"val"`` or ``"test"``, whose class a compiled model predicts."""

    @abstractmethod
    def batches(self) -> list[tuple[Any, ...]]:
        """Return arguments of calls that together cover the inputs of fine-tuning once, without labels."""

    @abstractmethod
    def sparse(self) -> AbstractContextManager[Any]:
        """While active, products with features skip zeros, where that saves time."""

    def fuse(self, model: nn.Module) -> nn.Module:
        """Return a model compiled with nothing pruned: the same numbers in less time and memory."""
        return upscale_fx.optimize(model, example_inputs=self.few).eval()


class NodeWorkload(Workload):
    """A node classifier of `MODELS` on a graph.

    Args:
        model: its name.
        graph: the graph.
        recipe: how it is trained; as in `RECIPES` by default.
    """

    def __init__(self, model: str, graph: Graph, recipe: Recipe | None = None) -> None:
        self.graph, self.model, self.data = graph, model, graph.name
        self.make, title, self.multiple, self.output_layer = MODELS[model]
        self.title = f"{title} on {graph.title}"
        self.recipe = RECIPES[graph.name] if recipe is None else recipe
        data = graph.data
        self.inputs = data.x, data.edge_index
        self.few = data.x[:32], torch.randint(32, (2, 64), generator=torch.Generator().manual_seed(0))
        self.rows = {"N": 1.0, "E": data.num_edges / data.num_nodes}

    def build(self, hidden: int | None = None) -> nn.Module:
        """Return an untrained model; see :meth:`Workload.build`."""
        width = self.recipe.hidden if hidden is None else hidden
        sizes = self.graph.data.num_features, width, self.graph.classes
        return self.make(*sizes, num_layers=LAYERS, dropout=self.recipe.dropout)

    def train(self, model: nn.Module) -> int:
        """Train a model on the whole graph at once; see :meth:`Workload.train`.

        The model is compiled with nothing pruned and trained in that form: it computes the same in less time and
        memory, and has the weights under the model's own names.
        """
        compiled, data = self.fuse(model), self.graph.data
        logits = self.graph.prepare(compiled)

        def run_epoch(optimizer: Optimizer) -> None:
            optimizer.zero_grad()
            loss = F.cross_entropy(logits()[data.train_mask], data.y[data.train_mask])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        def score() -> tuple[float, float]:
            scores = logits()
            loss = F.cross_entropy(scores[data.val_mask], data.y[data.val_mask])
            return self.graph.share_right(scores, data.val_mask), -float(loss)

        epochs = fit(compiled, self.recipe, run_epoch, score, self.title)
        model.load_state_dict(compiled.state_dict())
        model.eval()
        return epochs

    def accuracy(self, compiled: nn.Module, part: str) -> float:
        """Return the share of the nodes of a part whose class is predicted."""
        return self.graph.accuracy(compiled, self.graph.data[f"{part}_mask"])

    def batches(self) -> list[tuple[Any, ...]]:
        """Return the whole graph."""
        return [self.inputs]

    def sparse(self) -> AbstractContextManager[Any]:
        """Skip the zeros of the graph's features."""
        return self.graph.sparse_features

    @property
    def calibration(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Features and edges of the calibration call: the whole graph."""
        return self.inputs
