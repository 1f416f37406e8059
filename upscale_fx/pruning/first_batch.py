"""The traced model of a call that has an example, or calibration data whose first batch can be one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from torch import nn

from upscale_fx.compiled.batches import Batches, arguments_of
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.ownership import check_model
from upscale_fx.compiled.signatures import signature_of, with_entry
from upscale_fx.errors import InputError, TraceError
from upscale_fx.tracing.describe import takes_objects
from upscale_fx.tracing.objects.matrices import gives_matrices
from upscale_fx.tracing.stated_axes import StatedAxes
from upscale_fx.tracing.trace import trace_model


def trace_like(
    model: nn.Module,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None,
    calibration: Batches | None,
    transform: Callable[[Any], Any] | None,
    stated: StatedAxes | None = None,
    method: str = "forward",
) -> CompiledGNN:
    """Trace a model; if this needs an example and there is none, take the first calibration batch."""
    has_example = example_inputs is not None or example_kwargs is not None
    check_model(model)
    entry = model if isinstance(model, CompiledGNN) else with_entry(model, method)
    if has_example or calibration is None:
        return trace_model(model, example_inputs, example_kwargs, stated=stated, method=method)
    batch = next(iter(calibration))
    batch = batch if transform is None else transform(batch)
    if not takes_objects(entry) and not gives_matrices(batch, signature_of(entry).parameters):
        with suppress(InputError, TraceError):  # of objects and matrices, the data says what they hold
            return trace_model(model, stated=stated, method=method)
    arguments = arguments_of(batch, entry)
    return trace_model(model, *arguments, stated=stated, method=method)
