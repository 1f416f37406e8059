"""Columns for ``--train``: one epoch of training on the whole graph, PyG's dense model beside pruned ones."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upscale_fx.bench.adjacency import with_adjacency
from upscale_fx.bench.columns import BASELINE, RIVALS, Case, featured_amount, text


@dataclass(frozen=True)
class Trainee:
    """A model that is ready to train.

    Attributes:
        model: the model; its parameters change in every epoch.
        edges: the edges it takes: ``edge_index``, a sparse matrix or a prepared graph.
        reference: a model with the same input gradients in ``eval()``.
        case: the features, classes and edges to train on.
    """

    model: nn.Module
    edges: Any
    reference: nn.Module
    case: Case

    def epoch(self) -> Callable[[], object]:
        """A call that trains for one epoch."""
        graph = self.case.graph
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.model.train()

        def step() -> None:
            optimizer.zero_grad()
            self._loss(self.model, graph.x, self.edges).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step

    def gradient(self) -> Tensor:
        """Gradient of the loss by the node features, ``[N, C]``, without dropout."""
        return self._gradient(self.model, self.edges)

    def expected(self, edges: Tensor) -> Tensor:
        """The right gradient, computed with the edges in any order."""
        return self._gradient(self.reference, edges)

    def _gradient(self, model: nn.Module, edges: Any) -> Tensor:
        x = self.case.graph.x.clone().requires_grad_()
        return torch.autograd.grad(self._loss(model.eval(), x, edges), x)[0]

    def _loss(self, model: nn.Module, x: Tensor, edges: Any) -> Tensor:
        graph = self.case.graph
        logits = model(x, edges)
        return F.cross_entropy(logits[graph.train_mask], graph.y[graph.train_mask])


#: Sets a column up.
TrainingBuilder = Callable[[Case], Trainee]


def training_columns(amounts: tuple[float, ...]) -> dict[str, TrainingBuilder]:
    """Every column by name, in the order of the table."""
    table: dict[str, TrainingBuilder] = {BASELINE: _edge_index, RIVALS[0]: _adjacency}
    table |= {f"upscale {text(amount)}": functools.partial(_upscale, amount=amount) for amount in amounts}
    featured = featured_amount(amounts)
    if featured is not None:
        table[f"upscale {text(featured)}, new graph"] = functools.partial(_upscale, amount=featured, prepared=False)
    return table


def _edge_index(case: Case) -> Trainee:
    return Trainee(copy.deepcopy(case.model), case.graph.edge_index, case.model, case)


def _adjacency(case: Case) -> Trainee:
    return Trainee(*with_adjacency(case.model, case.graph), case.model, case)


def _upscale(case: Case, amount: float, prepared: bool = True) -> Trainee:
    compiled = copy.deepcopy(case.compiled(amount, trainable=True))
    edges = case.prepared(compiled) if prepared else case.graph.edge_index
    return Trainee(compiled, edges, case.masked(amount), case)
