"""Dynamo's graph, pruned: the function that torch.compile calls. It prunes again when the model has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from upscale_fx import api
from upscale_fx.backend.arguments import Argument
from upscale_fx.backend.clean import clean_graph
from upscale_fx.backend.likeness import describe, fits
from upscale_fx.backend.options import Options
from upscale_fx.backend.replay import CapturedModel, check_capture
from upscale_fx.compiled.inputs import ModelInputs
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.errors import TraceError
from upscale_fx.tracing.trace import trace_model


class PrunedGraph:
    """A function of Dynamo's inputs over pruned parameters, which prunes again whenever the model's values differ.

    Attributes:
        compiled: the pruned graph.
    """

    compiled: CompiledGNN

    def __init__(
        self, gm: fx.GraphModule, arguments: Sequence[Argument], options: Options, values: Sequence[Any]
    ) -> None:
        self._clean, self._options = clean_graph(gm, arguments), options
        model, inputs = self._captured(values)
        check_capture(gm, arguments, model, inputs, values)
        self._prune(model, inputs, values)

    def __call__(self, *values: Any) -> Any:
        """Compute the outputs of the graph."""
        if not self._is_current(values):
            with torch.inference_mode(False), torch.no_grad():
                self._prune(*self._captured(values), values)
        return self._run(*(values[argument.place] for argument in self._clean.given))

    def _captured(self, values: Sequence[Any]) -> tuple[CapturedModel, ModelInputs]:
        """A module with the present values of the model, and the description of its arguments."""
        held = {argument.name: values[argument.place] for argument in self._clean.held}
        given = {argument.name: values[argument.place] for argument in self._clean.given}
        model = CapturedModel(self._clean, {**held, **self._numbers(held)}).eval()
        return model, describe(self._clean.given, given, model)

    def _prune(self, model: CapturedModel, inputs: ModelInputs, values: Sequence[Any]) -> None:
        try:
            traced = trace_model(model, inputs=inputs)
        except TraceError as error:
            raise TraceError(
                f"torch.compile captured an operation that cannot be traced: {error.__cause__ or error}. Rewrite that "
                f"line with tensor operations, or prune the model itself, which may work where Dynamo's graph does "
                f"not: torch.compile(upscale_fx.prune(model, amount))"
            ) from error
        self.compiled = api.prune(traced, **self._options.of_prune()).eval()
        self._run = _compiled_by(self._options.inner, self.compiled)
        held = ((argument.name, values[argument.place]) for argument in self._clean.held)
        self._held = {name: v.detach().clone() if isinstance(v, Tensor) else v for name, v in held}
        self._inputs = inputs

    def _numbers(self, held: dict[str, Any]) -> dict[str, Any]:
        """Values that the graph uses as Python numbers."""
        names = {str(node.target) for node in self._clean.graph.nodes if node.meta.get("number")}
        return {name: v.item() if isinstance(v, Tensor) else v for name, v in held.items() if name in names}

    def _is_current(self, values: Sequence[Any]) -> bool:
        """Whether all built-in values are unchanged."""
        given = {argument.name: values[argument.place] for argument in self._clean.given}
        return all(_same(values[a.place], self._held[a.name]) for a in self._clean.held) and fits(
            self._clean.given, self._inputs, given
        )


def _same(value: Any, before: Any) -> bool:
    if not isinstance(value, Tensor):
        return bool(value == before)
    alike = value.shape == before.shape and value.dtype == before.dtype and value.device == before.device
    return alike and torch.equal(value, before)


def _compiled_by(inner: str | Callable[..., Any], compiled: CompiledGNN) -> Callable[..., Any]:
    """The pruned graph, compiled by another backend of torch.compile."""
    if inner == "eager":
        return compiled
    function: Callable[..., Any] = torch.compile(compiled, backend=inner, fullgraph=True, dynamic=True)
    return function
