"""Dynamo's graph, pruned: what torch.compile calls, and what notices that the model has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from upscale_fx import api
from upscale_fx.backend.arguments import Argument
from upscale_fx.backend.captured import captured_graph
from upscale_fx.backend.likeness import describe, fits
from upscale_fx.backend.options import Options
from upscale_fx.backend.replay import CapturedModel, check_capture
from upscale_fx.compiled.inputs import ModelInputs
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.errors import TraceError
from upscale_fx.tracing.trace import trace_model


class PrunedGraph:
    """A function of Dynamo's inputs, over parameters pruned when it was made and anew whenever the model's differ.

    Attributes:
        compiled: the pruned graph.
    """

    compiled: CompiledGNN

    def __init__(
        self, gm: fx.GraphModule, arguments: Sequence[Argument], options: Options, values: Sequence[Any]
    ) -> None:
        self._captured, self._options = captured_graph(gm, arguments), options
        model, inputs = self._model_and_inputs(values)
        check_capture(gm, arguments, model, inputs, values)
        self._prune(model, inputs, values)

    def __call__(self, *values: Any) -> Any:
        """Compute the outputs of the graph."""
        if not self._is_current(values):
            with torch.inference_mode(False), torch.no_grad():
                self._prune(*self._model_and_inputs(values), values)
        return self._run(*(values[argument.place] for argument in self._captured.given))

    def _model_and_inputs(self, values: Sequence[Any]) -> tuple[CapturedModel, ModelInputs]:
        """A module over what the model holds now, and what its arguments look like."""
        held = {argument.name: values[argument.place] for argument in self._captured.held}
        given = {argument.name: values[argument.place] for argument in self._captured.given}
        model = CapturedModel(self._captured, {**held, **self._numbers(held)}).eval()
        return model, describe(self._captured.given, given, model)

    def _prune(self, model: CapturedModel, inputs: ModelInputs, values: Sequence[Any]) -> None:
        try:
            traced = trace_model(model, inputs=inputs)
        except TraceError as error:
            raise TraceError(
                f"torch.compile captured what cannot be traced: {error.__cause__ or error}. Rewrite that line with "
                f"tensor operations, or prune the model itself, torch.compile(upscale_fx.prune(model, amount)): "
                f"tracing may know a way where Dynamo's graph shows none"
            ) from error
        self.compiled = api.prune(traced, **self._options.of_prune()).eval()
        self._run = _compiled_by(self._options.inner, self.compiled)
        held = ((argument.name, values[argument.place]) for argument in self._captured.held)
        self._held = {name: v.detach().clone() if isinstance(v, Tensor) else v for name, v in held}
        self._inputs = inputs

    def _numbers(self, held: dict[str, Any]) -> dict[str, Any]:
        """Python numbers that the graph uses as such."""
        names = {str(node.target) for node in self._captured.graph.nodes if node.meta.get("number")}
        return {name: v.item() if isinstance(v, Tensor) else v for name, v in held.items() if name in names}

    def _is_current(self, values: Sequence[Any]) -> bool:
        """Whether everything that was built in is as it was."""
        given = {argument.name: values[argument.place] for argument in self._captured.given}
        return all(_same(values[a.place], self._held[a.name]) for a in self._captured.held) and fits(
            self._captured.given, self._inputs, given
        )


def _same(value: Any, before: Any) -> bool:
    if not isinstance(value, Tensor):
        return bool(value == before)
    alike = value.shape == before.shape and value.dtype == before.dtype and value.device == before.device
    return alike and torch.equal(value, before)


def _compiled_by(inner: str | Callable[..., Any], compiled: CompiledGNN) -> Callable[..., Any]:
    """The pruned graph as another backend of torch.compile runs it."""
    if inner == "eager":
        return compiled
    made: Callable[..., Any] = torch.compile(compiled, backend=inner, fullgraph=True, dynamic=True)
    return made
