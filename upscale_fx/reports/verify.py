"""Verification: compare two models on the given graph and on graphs of other sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from upscale_fx.compiled.comparison import largest_difference
from upscale_fx.compiled.guards.failures import named_failures
from upscale_fx.compiled.inputs import ModelInputs
from upscale_fx.compiled.module import CompiledGNN, call_by_name, inputs_of, record_of
from upscale_fx.compiled.objects.results import tensors_of
from upscale_fx.compiled.ownership import check_model, uncached
from upscale_fx.compiled.signatures import with_entry
from upscale_fx.compiled.undisturbed import is_in, modes_kept, modes_of, preserved_rng, set_modes
from upscale_fx.errors import InputError, VerificationError, warn
from upscale_fx.reports.steady_dropout import steady_dropout
from upscale_fx.tracing.describe import bind_examples
from upscale_fx.tracing.fitting import expected_width
from upscale_fx.tracing.stated_axes import StatedAxes
from upscale_fx.tracing.variants import variants

_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


#: Nodes and edges of the other graphs.
_SIZES = ((13, 41), (37, 160))


@named_failures
def verify(
    reference: nn.Module,
    compiled: nn.Module,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    tolerance: float | None = None,
    dynamic_axes: Mapping[str, Any] | None = None,
    indices: Mapping[str, Any] | None = None,
) -> float:
    """Compare two models on the example inputs and on similar graphs of other sizes, in the modes of the reference.

    They are compared in ``eval()``, and if any module of the reference is in ``train()``, also in the modes that its
    modules are in, with the same modes in the compiled model. Dropouts that are on then scale by ``1 - p / 2`` instead
    of drawing random numbers, so that they show in the outputs. A compiled model that cannot be in these modes, because
    it is for ``eval()`` only, is compared in ``eval()`` only. Modes, buffers and random number generators stay as they
    were.

    Args:
        reference: the model whose outputs are right, such as ``upscale_fx.mask(model, 0.5)``.
        compiled: the model to check.
        example_inputs: positional arguments of one call, as for ``trace``.
        example_kwargs: keyword arguments of one call.
        tolerance: largest difference allowed, relative to the largest output (at least 1). Default by dtype: 1e-10 for
            float64, 1e-4 for float32.
        dynamic_axes: see :func:`upscale_fx.trace`. A traced model among the two knows them already.
        indices: see :func:`upscale_fx.trace`.

    Returns:
        The largest relative difference seen.

    Raises:
        VerificationError: an output differs by more, or in shape; the message names output, graph and difference, and
            says so where the models agree in ``eval()``.
    """
    check_model(reference)
    check_model(compiled)
    if isinstance(compiled, CompiledGNN) and not isinstance(reference, CompiledGNN):
        reference = with_entry(reference, record_of(compiled).method)
    example, inputs = bind_examples(reference, example_inputs, example_kwargs, StatedAxes(dynamic_axes, indices))
    inputs = _traced_with(reference, compiled, example) or inputs
    graphs: list[tuple[str, dict[str, Any]]] = [("the example inputs", example)]
    inputs = _accepted(reference, inputs)
    if inputs.fixed:
        warn(
            f"verify tried graphs of {inputs.fixed_text} only, as many as the example has: {type(reference).__name__} "
            f"takes no other number, or the example does not show how other graphs look (see dynamic_axes= and "
            f"indices= of trace)"
        )
    graphs += [(f"a graph of {n} nodes and {e} edges", _graph(inputs, n, e)) for n, e in _SIZES]
    reference_modes = modes_of(reference)
    modes = [(dict.fromkeys(reference.modules(), False), dict.fromkeys(compiled.modules(), False))]
    if any(reference_modes.values()) and (same := _same_modes(reference, compiled)) is not None:
        modes.append((reference_modes, same))
    worst = 0.0
    for number, (first, second) in enumerate(modes):
        for name, arguments in graphs:
            try:
                expected = _run(reference, inputs, arguments, first)
            except (RuntimeError, ValueError, IndexError) as error:
                shapes = {key: list(value.shape) for key, value in arguments.items() if isinstance(value, Tensor)}
                raise InputError(f"the reference does not accept {name} {shapes}: {expected_width(error)}") from error
            actual = _run(compiled, inputs, arguments, second)
            limit = tolerance if tolerance is not None else _default_tolerance(expected)
            gap = largest_difference(expected, actual)
            if not gap <= limit:
                where = " in the modes of the reference; in eval() the models agree" if number else ""
                raise VerificationError(_message(expected, actual, name, gap, limit) + where)
            worst = max(worst, gap)
    return worst


def _same_modes(reference: nn.Module, compiled: nn.Module) -> dict[nn.Module, bool] | None:
    """Return the modes of the reference for the modules of the compiled model; None if it cannot be in these modes."""
    known = {path: is_in(module, True) for path, module in reference.named_modules(remove_duplicate=False)}
    record = record_of(compiled) if isinstance(compiled, CompiledGNN) else None
    modes = {}
    for path, module in compiled.named_modules():
        above = path
        while above not in known:
            above = above.rpartition(".")[0]
        modes[module] = known[above]
        if record is not None and known[above] and record.stays_in_eval(path):
            return None
    return modes


def _graph(inputs: ModelInputs, nodes: int, edges: int) -> dict[str, Any]:
    return inputs.example({"N": nodes, "E": edges, "B": 3}, seed=1, loops=True)


def _traced_with(reference: nn.Module, compiled: nn.Module, example: Mapping[str, Any]) -> ModelInputs | None:
    """The description that one of the models was traced with, if it was traced with these arguments."""
    for model in (compiled, reference):
        if isinstance(model, CompiledGNN) and inputs_of(model).arguments.keys() == example.keys():
            return inputs_of(model)
    return None


def _accepted(reference: nn.Module, inputs: ModelInputs) -> ModelInputs:
    """The first description of other graphs that the reference accepts; ``inputs`` if it accepts none."""
    eval_modes = dict.fromkeys(reference.modules(), False)
    for candidate in (inputs, *variants(inputs)):
        try:
            _run(reference, candidate, _graph(candidate, *_SIZES[0]), eval_modes)
        except (RuntimeError, ValueError, IndexError):
            continue
        return candidate
    return inputs


def _run(model: nn.Module, inputs: ModelInputs, arguments: dict[str, Any], modes: Mapping[nn.Module, bool]) -> Any:
    with (
        modes_kept(model), torch.no_grad(), preserved_rng(model), steady_dropout(), _buffers_kept(model),
        uncached(model),
    ):  # fmt: skip
        set_modes(modes)
        torch.manual_seed(0)
        return call_by_name(model, inputs, arguments)


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Restore buffers at the end of the block, such as running statistics."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)


def _default_tolerance(expected: Any) -> float:
    dtypes = [leaf.dtype for leaf in tensors_of(expected) if isinstance(leaf, Tensor)]
    return max((_TOLERANCE.get(dtype, 1e-4) for dtype in dtypes), default=1e-4)


def _message(expected: Any, actual: Any, graph: str, gap: float, limit: float) -> str:
    pairs = zip(tensors_of(expected), tensors_of(actual), strict=False)
    for number, (a, b) in enumerate(pairs):
        if largest_difference(a, b) > limit or getattr(a, "shape", None) != getattr(b, "shape", None):
            shapes = f"shape {list(getattr(a, 'shape', []))} against {list(getattr(b, 'shape', []))}"
            return f"output {number} differs on {graph}: by {gap:.3g} (relative, allowed {limit:.3g}), {shapes}"
    return f"outputs differ on {graph}: by {gap:.3g} (relative, allowed {limit:.3g})"
