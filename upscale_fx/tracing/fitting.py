"""Find the description of a model's arguments that the model accepts, by running it on small example graphs."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from upscale_fx.compiled.inputs import LARGE, SMALL, ModelInputs, TensorSpec
from upscale_fx.compiled.module import call_by_name
from upscale_fx.compiled.objects.reads import recorded
from upscale_fx.compiled.progress import advance, stage
from upscale_fx.compiled.source_lines import line_of
from upscale_fx.compiled.undisturbed import in_modes, undisturbed
from upscale_fx.errors import InputError
from upscale_fx.tracing.modules.gradients import refusal_of_gradients
from upscale_fx.tracing.modules.state import State
from upscale_fx.tracing.objects.apart import refused_attribute
from upscale_fx.tracing.sizes.said import taken_for_rows
from upscale_fx.tracing.sizes.tried import TriedSizes, made_alike
from upscale_fx.tracing.variants import as_the_example, fixed_variants, open_variants

#: The most descriptions of which variants are tried.
_VARIED = 3


def fitting_inputs(root: nn.Module, described: Iterable[ModelInputs], state: State) -> ModelInputs:
    """Return the first description, or variant of one, with which the model runs on both example graphs.

    After every run the model is put back to ``state``.

    Raises:
        InputError: the model refuses all of them; the message says what the first was, and why it was refused.
        TraceError: the model takes gradients itself.
    """
    stage("running examples")
    candidates = list(described)
    tried: dict[Hashable, Exception | None] = {}
    changing: set[Hashable] = set()

    def refusal_at(inputs: ModelInputs, rows: dict[str, int]) -> Exception | None:
        key = (rows["N"], made_alike(inputs, rows))
        if key not in tried:
            tried[key] = run_refusal(root, inputs, rows, state)
            if state.changed:
                changing.add(key)
        return tried[key]

    sizes = TriedSizes(lambda inputs: refusal_at(inputs, SMALL))
    failure: Exception | None = None
    for base, inputs in _to_try(candidates):
        if failure is not None and sizes.exclude(base, inputs):
            continue
        with recorded() as reads:
            refusal = refusal_at(inputs, SMALL) or refusal_at(inputs, LARGE)
        if refusal is not None and (attribute := refused_attribute(inputs, reads)):
            raise InputError(attribute) from refusal
        if refusal is not None and (gradients := refusal_of_gradients(root, refusal)):
            raise gradients from refusal
        if refusal is None:
            fitting = replace(inputs, why=_reason(failure)) if failure is not None and inputs.fixed else inputs
            state.kept_by = None if (SMALL["N"], made_alike(inputs, SMALL)) in changing else fitting
            return fitting
        failure = failure or refusal
    assert failure is not None
    raise InputError(refused(root, candidates[0], failure)) from failure


def _to_try(candidates: Sequence[ModelInputs]) -> Iterator[tuple[ModelInputs, ModelInputs]]:
    """Yield descriptions with their bases, the most general first."""
    yield from ((inputs, inputs) for inputs in candidates)
    for inputs in candidates[:_VARIED]:
        yield from open_variants(inputs)
    for inputs in candidates[:_VARIED]:
        yield from fixed_variants(inputs)
    for inputs in candidates[:_VARIED]:
        if (whole := as_the_example(inputs)) is not None:
            yield whole, whole


def _reason(failure: BaseException) -> str:
    return f"{type(failure).__name__} at {line_of(failure)}: {str(failure).splitlines()[0] if str(failure) else ''}"


def refusal_of(root: nn.Module, inputs: ModelInputs, state: State) -> Exception | None:
    """Run the model on both example graphs; return the error if it refuses one of them.

    After every run the model is put back to ``state``.
    """
    return run_refusal(root, inputs, SMALL, state) or run_refusal(root, inputs, LARGE, state)


def run_refusal(root: nn.Module, inputs: ModelInputs, rows: dict[str, int], state: State) -> Exception | None:
    """Run the model on one example graph; return the error if it refuses it. The model is put back to ``state``."""
    try:
        advance()
        run_example(root, inputs, rows, quiet=isinstance(root, fx.GraphModule), state=state)
    except Exception as error:
        return error
    return None


def refused(root: nn.Module, inputs: ModelInputs, failure: Exception) -> str:
    """Say that a model refuses arguments, why, and what to pass."""
    shapes = {name: list(spec.axes) for name, spec in inputs.arguments.items() if isinstance(spec, TensorSpec)}
    why = f"{type(root).__name__} does not accept inputs of shapes {shapes}: {expected_width(failure)}; "
    taken = taken_for_rows(inputs, width_of(failure))
    if not taken:
        return (
            f"{why}pass example_inputs=(x, edge_index, ...) of the widths and dtype the model was built for. (Tracing "
            f"runs the model on small graphs that it makes like the examples. Where letters stand for an axis that is "
            f"no number of rows, or values are drawn that the model refuses, say so with dynamic_axes= and indices=.)"
        )
    return (
        f"{why}tracing runs the model on small graphs that it makes like the example, and took {taken}. If the widths "
        f"and the dtype of the example are those that the model was built for, this is wrong, or integers are drawn "
        f"that the model refuses: say which rows they number with indices=."
    )


def expected_width(failure: BaseException) -> str:
    """Say which width the layer that failed expects, by its declaration, and what the failure was."""
    if "dtype" in str(failure):
        return f"{type(failure).__name__} at {line_of(failure)}: {failure}"
    module = _failed_layer(failure)
    width = _declared_width(module)
    expected = f"{module} expects width {width}; " if module is not None and width is not None else ""
    return f"{expected}{type(failure).__name__} at {line_of(failure)}: {failure}"


def width_of(failure: BaseException) -> int | None:
    """Return the width that the layer that failed declares, None if there is no such layer."""
    width = _declared_width(_failed_layer(failure))
    return width if isinstance(width, int) and "dtype" not in str(failure) else None


def _declared_width(module: nn.Module | None) -> Any:
    return getattr(module, "in_channels", getattr(module, "in_features", None))


def _failed_layer(failure: BaseException) -> nn.Module | None:
    frame, module = failure.__traceback__, None
    while frame is not None:
        owner = frame.tb_frame.f_locals.get("self")
        module = owner if isinstance(owner, nn.Module) and hasattr(owner, "weight") else module
        frame = frame.tb_next
    return module


def run_example(
    model: nn.Module,
    inputs: ModelInputs,
    rows: dict[str, int],
    quiet: bool = False,
    trained: Collection[str] = (),
    state: State | None = None,
    **options: Any,
) -> Any:
    """Return the model's output on an example graph; the model's modes and the RNG stay as they were.

    The modules of the paths ``trained`` are in ``train()``, the others in ``eval()``. What the call leaves on the model
    is put back to ``state``, if one is given.
    """
    try:
        with in_modes(model, trained), torch.no_grad(), undisturbed(model):
            return call_by_name(model, inputs, inputs.example(rows, **options), quiet)
    finally:
        if state is not None:
            state.changed = bool(state.changes())
            state.restore()
