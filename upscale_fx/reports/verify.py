"""Verification: compare two models on the given graph and on graphs of other sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from upscale_fx.compiled.comparison import largest_difference
from upscale_fx.compiled.inputs import ModelInputs
from upscale_fx.compiled.module import CompiledGNN, call_by_name, record_of
from upscale_fx.compiled.objects.results import tensors_of
from upscale_fx.compiled.ownership import check_model
from upscale_fx.compiled.signatures import with_entry
from upscale_fx.compiled.undisturbed import in_mode, preserved_rng
from upscale_fx.errors import InputError, VerificationError
from upscale_fx.tracing.describe import bind_examples
from upscale_fx.tracing.trace import expected_width

_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


#: Nodes and edges of the other graphs.
_SIZES = ((13, 41), (37, 160))


def verify(
    reference: nn.Module,
    compiled: nn.Module,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    tolerance: float | None = None,
) -> float:
    """Compare two models in eval mode on the example inputs and on similar graphs of other sizes.

    Args:
        reference: the model whose outputs are right, such as ``upscale_fx.mask(model, 0.5)``.
        compiled: the model to check.
        example_inputs: positional arguments of one call, as for ``trace``.
        example_kwargs: keyword arguments of one call.
        tolerance: largest difference allowed, relative to the largest output (at least 1). Default by dtype: 1e-10 for
            float64, 1e-4 for float32.

    Returns:
        The largest relative difference seen.

    Raises:
        VerificationError: an output differs by more, or in shape; the message names output, graph and difference.
    """
    check_model(reference)
    check_model(compiled)
    if isinstance(compiled, CompiledGNN) and not isinstance(reference, CompiledGNN):
        reference = with_entry(reference, record_of(compiled).method)
    example, inputs = bind_examples(reference, example_inputs, example_kwargs)
    graphs: list[tuple[str, dict[str, Any]]] = [("the example inputs", example)]
    inputs = _accepted(reference, inputs)
    graphs += [(f"a graph of {n} nodes and {e} edges", _graph(inputs, n, e)) for n, e in _SIZES]
    worst = 0.0
    for name, arguments in graphs:
        try:
            expected = _run(reference, inputs, arguments)
        except (RuntimeError, ValueError, IndexError) as error:
            shapes = {key: list(value.shape) for key, value in arguments.items() if isinstance(value, Tensor)}
            raise InputError(f"the reference does not accept {name} {shapes}: {expected_width(error)}") from error
        actual = _run(compiled, inputs, arguments)
        limit = tolerance if tolerance is not None else _default_tolerance(expected)
        gap = largest_difference(expected, actual)
        if not gap <= limit:
            raise VerificationError(_message(expected, actual, name, gap, limit))
        worst = max(worst, gap)
    return worst


def _graph(inputs: ModelInputs, nodes: int, edges: int) -> dict[str, Any]:
    return inputs.example({"N": nodes, "E": edges, "B": 3}, seed=1, loops=True)


def _accepted(reference: nn.Module, inputs: ModelInputs) -> ModelInputs:
    """The first description of other graphs that the reference accepts; ``inputs`` if it accepts none."""
    for candidate in (inputs, *inputs.variants()):
        try:
            _run(reference, candidate, _graph(candidate, *_SIZES[0]))
        except (RuntimeError, ValueError, IndexError):
            continue
        return candidate
    return inputs


def _run(model: nn.Module, inputs: ModelInputs, arguments: dict[str, Any]) -> Any:
    with in_mode(model, training=False), torch.no_grad(), preserved_rng(model):
        return call_by_name(model, inputs, arguments)


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
