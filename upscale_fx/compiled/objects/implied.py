"""What an ``edge_index`` implies that is passed in place of a sparse matrix: weights of 1, and numbers of nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from upscale_fx.compiled.inputs import ModelInputs, RowCount, TensorSpec
from upscale_fx.compiled.objects.arguments import matrices_of
from upscale_fx.compiled.objects.matrices import EDGES, WEIGHTS
from upscale_fx.compiled.prepared import PreparedGraph
from upscale_fx.errors import InputError


def with_implied(inputs: ModelInputs, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights and numbers of nodes that a call leaves out, for a graph that was traced with matrices.

    Args:
        inputs: the arguments of the graph.
        given: those of the call, by name.

    Raises:
        InputError: they do not follow from what is given.
    """
    more: dict[str, Any] = {}
    for parts in matrices_of(inputs.objects):
        edges = given.get(str(parts.parts[EDGES]))
        for key, part in parts.parts.items():
            name = str(part)
            if key == EDGES or name not in inputs.arguments or given.get(name) is not None:
                continue
            if isinstance(edges, PreparedGraph) and name in edges.arguments:
                continue
            if key == WEIGHTS:
                value = _weights(inputs.arguments[name], edges, given, name)
            else:
                value = _counts(inputs.arguments[name], inputs, {**given, **more}, name)
            more[name] = value
    return more


def _weights(spec: Any, edges: Any, given: Mapping[str, Any], name: str) -> Any:
    """Return a weight of 1 for every edge."""
    if isinstance(spec, dict):
        return {key: _weights(part, (edges or {}).get(key), given, name) for key, part in spec.items()}
    if not isinstance(edges, Tensor) or not spec.dtype.is_floating_point or len(spec.axes) != 1:
        raise InputError(
            f"argument '{name}' is missing: the model reads the values of the sparse matrix that it was traced with. "
            f"Pass a sparse matrix, or '{name}' besides the edges"
        )
    dtype = next((value.dtype for value in _leaves(given) if value.is_floating_point()), spec.dtype)
    return torch.ones(edges.shape[1], dtype=dtype, device=edges.device)


def _counts(spec: Any, inputs: ModelInputs, given: Mapping[str, Any], name: str) -> Any:
    if isinstance(spec, dict):
        return {key: _counts(part, inputs, given, name) for key, part in spec.items()}
    if not isinstance(spec, RowCount):
        return spec
    for argument, value in given.items():
        count = _rows(inputs.arguments.get(argument), value, spec.symbol)
        if count is not None:
            return count
    raise InputError(
        f"argument '{name}' is missing: a sparse matrix has it as a size, but edges do not tell it. Pass a sparse "
        f"matrix, or {name}= besides the edges"
    )


def _rows(spec: Any, value: Any, symbol: str) -> Any:
    """Return how many rows of a kind an argument has; None if it has none of them."""
    if isinstance(spec, dict | list | tuple) and isinstance(value, dict | list | tuple):
        keys = list(spec) if isinstance(spec, dict) else list(range(len(spec)))
        pairs: list[tuple[Any, Any]] = [(spec[k], value[k]) for k in keys if not isinstance(value, dict) or k in value]
        return next((count for pair in pairs if (count := _rows(*pair, symbol)) is not None), None)
    if isinstance(spec, TensorSpec) and isinstance(value, Tensor) and symbol in spec.axes:
        return value.shape[spec.axes.index(symbol)]
    return value if isinstance(spec, RowCount) and spec.symbol == symbol else None


def _leaves(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
