"""UPSCALE's own two-step interface (Wan et al. 2023): a manager that masks, a manager that prunes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from upscale_fx.api import compact, trace
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.ownership import check_model
from upscale_fx.errors import InputError
from upscale_fx.masking.options import CriterionChoice, MaskOptions
from upscale_fx.pruning.once import plan_of


class MaskingManager:
    """Masks a model in place: ``MaskingManager(model).importance("l2").mask(amount=0.25)``."""

    def __init__(self, model: nn.Module, example_inputs: Any = None, **stated: Any) -> None:
        check_model(model)
        self.model = model
        self.example_inputs = example_inputs
        self._stated = stated  # dynamic_axes, indices
        self._criterion: CriterionChoice = None

    def importance(self, criterion: CriterionChoice = None) -> MaskingManager:
        """Choose the criterion (default ``"l2"``); returns itself."""
        self._criterion = criterion
        return self

    def mask(self, amount: float = 0.25, **options: Any) -> nn.Module:
        """Zero the weights of the least important input channels of every consumer, in the model itself.

        Takes the options of :func:`upscale_fx.mask` and raises the same errors; returns the model.
        """
        traced = trace(self.model, self.example_inputs, **self._stated)
        plan_of(traced, MaskOptions(amount=amount, criterion=self._criterion, **options)).apply(self.model)
        return self.model


class PruningManager:
    """Prunes a masked model: ``PruningManager(model).compute([x, edge_index]).prune()``."""

    def __init__(self, model: nn.Module) -> None:
        check_model(model)
        self.model = model
        self._inputs: tuple[Any, ...] | None = None

    def compute(self, inputs: Sequence[Any]) -> PruningManager:
        """Set the arguments of one call, with which the graph is traced; returns itself."""
        self._inputs = tuple(inputs)
        return self

    def prune(self) -> CompiledGNN:
        """The compacted GraphModule; raises InputError unless ``compute`` was called."""
        if self._inputs is None:
            raise InputError("call compute([x, edge_index]) before prune()")
        return compact(self.model, example_inputs=self._inputs)
