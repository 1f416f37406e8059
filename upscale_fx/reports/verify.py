"""Verification: compare two models on the given graph and on graphs of other sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from upscale_fx.compiled.comparison import largest_difference
from upscale_fx.compiled.inputs import ModelInputs
from upscale_fx.compiled.module import CompiledGNN, call_by_name, record_of
from upscale_fx.compiled.ownership import check_model
from upscale_fx.compiled.undisturbed import in_mode, preserved_rng
from upscale_fx.errors import InputError, VerificationError
from upscale_fx.reports.steady_dropout import steady_dropout
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
    """Compare two models in ``eval()``, and as they are, on the example inputs and on similar graphs of other sizes.

    As they are: if a module of one of them is in ``train()``, both also run in the modes that their modules are in.
    Dropouts that are on then scale by ``1 - p / 2`` instead of drawing random numbers, so that they show in the
    outputs. A compiled model that is for ``eval()`` only is compared in ``eval()`` only. Modes, buffers and random
    number generators stay as they were.

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
        VerificationError: an output differs by more, or in shape; the message names output, graph and difference, and
            in which modes the models are where they agree in ``eval()``.
    """
    check_model(reference)
    check_model(compiled)
    example, inputs = bind_examples(reference, example_inputs, example_kwargs)
    graphs: list[tuple[str, dict[str, Any]]] = [("the example inputs", example)]
    inputs = _accepted(reference, inputs)
    graphs += [(f"a graph of {n} nodes and {e} edges", _graph(inputs, n, e)) for n, e in _SIZES]
    worst = _worst(reference, compiled, inputs, graphs, tolerance, as_they_are=False)
    trained = any(module.training for model in (reference, compiled) for module in model.modules())
    if trained and not (isinstance(compiled, CompiledGNN) and record_of(compiled).is_inference):
        worst = max(worst, _worst(reference, compiled, inputs, graphs, tolerance, as_they_are=True))
    return worst


def _worst(
    reference: nn.Module,
    compiled: nn.Module,
    inputs: ModelInputs,
    graphs: list[tuple[str, dict[str, Any]]],
    tolerance: float | None,
    as_they_are: bool,
) -> float:
    """Return the largest difference on any graph, in ``eval()`` or in the modes that the modules are in."""
    worst = 0.0
    for name, arguments in graphs:
        try:
            expected = _run(reference, inputs, arguments, as_they_are)
        except (RuntimeError, ValueError, IndexError) as error:
            shapes = {key: list(value.shape) for key, value in arguments.items() if isinstance(value, Tensor)}
            raise InputError(f"the reference does not accept {name} {shapes}: {expected_width(error)}") from error
        actual = _run(compiled, inputs, arguments, as_they_are)
        limit = tolerance if tolerance is not None else _default_tolerance(expected)
        gap = largest_difference(expected, actual)
        if not gap <= limit:
            modes = _modes(reference, compiled) if as_they_are else ""
            raise VerificationError(_message(expected, actual, name, gap, limit) + modes)
        worst = max(worst, gap)
    return worst


def _modes(reference: nn.Module, compiled: nn.Module) -> str:
    """Say in which modes two models were compared, and the first module whose modes differ."""
    first, second = ({path: m.training for path, m in model.named_modules()} for model in (reference, compiled))
    text = "; they agree in eval(), but not in the modes that they are in"
    for path in first.keys() & second.keys():
        if first[path] != second[path]:
            words = ["train()" if mode[path] else "eval()" for mode in (first, second)]
            return f"{text}: {path or 'the reference'} is in {words[0]}, and in {words[1]} in the compiled model"
    return text


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


def _run(model: nn.Module, inputs: ModelInputs, arguments: dict[str, Any], as_they_are: bool = False) -> Any:
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(preserved_rng(model))
        if as_they_are:
            stack.enter_context(steady_dropout())
            stack.enter_context(_buffers_kept(model))
            torch.manual_seed(0)
        else:
            stack.enter_context(in_mode(model, training=False))
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
    dtypes = [leaf.dtype for leaf in pytree.tree_leaves(expected) if isinstance(leaf, Tensor)]
    return max((_TOLERANCE.get(dtype, 1e-4) for dtype in dtypes), default=1e-4)


def _message(expected: Any, actual: Any, graph: str, gap: float, limit: float) -> str:
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(actual), strict=False)
    for number, (a, b) in enumerate(pairs):
        if largest_difference(a, b) > limit or getattr(a, "shape", None) != getattr(b, "shape", None):
            shapes = f"shape {list(getattr(a, 'shape', []))} against {list(getattr(b, 'shape', []))}"
            return f"output {number} differs on {graph}: by {gap:.3g} (relative, allowed {limit:.3g}), {shapes}"
    return f"outputs differ on {graph}: by {gap:.3g} (relative, allowed {limit:.3g})"
