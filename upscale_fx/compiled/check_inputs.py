"""The first call of every graph: it refuses arguments that do not fit the traced ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from upscale_fx.compiled.inputs import ModelInputs, TensorSpec
from upscale_fx.compiled.prepared import PreparedGraph
from upscale_fx.errors import InputError

_CONSTANT = (bool, int, float, str)


def add_input_check(graph: fx.Graph, inputs: ModelInputs) -> None:
    """Make the graph call check_inputs first, which refuses inputs whose shapes or constants were not traced."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    names: list[str] = []
    shapes: list[Any] = []
    checked: list[fx.Node] = []
    for node in placeholders:
        spec = inputs.arguments.get(node.target)
        if isinstance(spec, TensorSpec) or spec is None or isinstance(spec, _CONSTANT):
            checked.append(node)
            names.append(str(node.target))
            shapes.append(spec.shape if isinstance(spec, TensorSpec) else spec)
        elif any(isinstance(leaf, _CONSTANT) for leaf in pytree.tree_leaves(spec)):
            checked.append(node)
            names.append(str(node.target))
            shapes.append({"parts": pytree.tree_map(lambda leaf: leaf if isinstance(leaf, _CONSTANT) else ..., spec)})
    with graph.inserting_after(placeholders[-1]):
        node = graph.call_function(check_inputs, (tuple(checked), tuple(names), tuple(shapes)))
    node.meta.update(module="", source="")


def check_inputs(
    values: Sequence[Any], names: Sequence[str], shapes: Sequence[Any], structure: Mapping[str, Any] | None = None
) -> None:
    """Raise an InputError unless every value has the type and widths its argument was traced with.

    Args:
        values: the arguments of this call.
        names: their names.
        shapes: per argument, the sizes it must have (None: any size); None if the traced argument was None; the value
            itself if it was a number, a bool or a string; for containers, ``{"parts": ...}`` with the numbers, bools
            and strings in them, and ``...`` in place of all else.
        structure: by name, the arguments of this call that a PreparedGraph may replace.
    """
    graph = next((value for value in (structure or {}).values() if isinstance(value, PreparedGraph)), None)
    for value, name, shape in zip(values, names, shapes, strict=True):
        if shape is None:
            if value is not None:
                raise InputError(
                    f"argument '{name}' was None when this graph was traced and cannot be given now; "
                    f"trace again with example inputs that contain '{name}'"
                )
        elif isinstance(shape, Mapping):
            _check_parts(value, name, shape["parts"])
        elif not isinstance(shape, tuple):
            given = value.item() if isinstance(value, np.generic) else value
            if type(given) is not type(shape) or given != shape:
                raise InputError(
                    f"argument '{name}' was {shape!r} when this graph was traced and is built in, got {value!r}; "
                    f"trace again with example inputs that contain {name}={value!r}"
                )
        elif not _stands_in(graph, value, name, structure or {}):
            check_tensor(value, name, shape)


def _check_parts(value: Any, name: str, traced: Any) -> None:
    """Raise an InputError unless the numbers, bools and strings in a container are those that were traced."""
    if traced is ...:
        return
    if isinstance(traced, Mapping):
        for key, part in traced.items():
            if isinstance(value, Mapping) and key in value:
                _check_parts(value[key], f"{name}[{key!r}]", part)
    elif isinstance(traced, tuple | list):
        if not isinstance(value, tuple | list) or len(value) != len(traced):
            raise InputError(f"argument '{name}' has {len(traced)} parts in this graph, got {_brief(value)}")
        for number, (part, other) in enumerate(zip(traced, value, strict=True)):
            _check_parts(other, f"{name}[{number}]", part)
    elif type(value) is not type(traced) or value != traced:
        raise InputError(
            f"argument '{name}' was {traced!r} when this graph was traced and is built in, got {_brief(value)}; trace "
            f"again with example inputs that contain this value"
        )


def _brief(value: Any) -> str:
    return repr(value) if isinstance(value, int | float | str | None) else type(value).__name__


def _stands_in(graph: PreparedGraph | None, value: Any, name: str, structure: Mapping[str, Any]) -> bool:
    """Whether a prepared graph replaces this argument; raises InputError if it is in the wrong place."""
    if isinstance(value, PreparedGraph) and name not in structure:
        if structure:
            raise InputError(f"argument '{name}' is a PreparedGraph, which can stand in for {_listed(structure)} only")
        raise InputError(
            f"argument '{name}' is a PreparedGraph, but this graph has no structure half that it could stand in for; "
            f"call what optimize() or prune() returned, with a handle prepared for it"
        )
    if graph is not None and value is None and name in structure and name not in graph.arguments:
        raise InputError(
            f"argument '{name}' is missing: the prepared graph holds {_listed(graph.arguments)} only; give '{name}' "
            f"too, or call upscale_fx.prepare(compiled, ..., {name}={name})"
        )
    return isinstance(value, PreparedGraph) or (graph is not None and value is None and name in structure)


def check_tensor(value: Any, name: str, shape: tuple[int | None, ...]) -> None:
    """Raise an InputError unless an argument is a dense tensor of these sizes (None: any size)."""
    if not isinstance(value, Tensor):
        raise InputError(
            f"argument '{name}' must be a dense torch.Tensor of shape {_shape_text(shape)}, got "
            f"{type(value).__name__}; a sparse adj_t is not what this graph was traced with, pass edge_index, or trace "
            f"again with a sparse matrix of torch as example"
        )
    if value.layout != torch.strided:
        raise InputError(
            f"argument '{name}' is a sparse tensor ({value.layout}), but the graph was traced with a dense one of "
            f"shape {_shape_text(shape)}; pass edge_index (torch_geometric.utils.to_edge_index converts adj_t.t()), or "
            f"trace again with a sparse matrix as example"
        )
    if value.dim() != len(shape):
        raise InputError(
            f"argument '{name}' must have {len(shape)} dimensions {_shape_text(shape)}, got {list(value.shape)}"
        )
    for axis, (size, expected) in enumerate(zip(value.shape, shape, strict=True)):
        if expected is not None and size != expected:
            what = f"axis {axis} is fixed at {expected}" if axis < len(shape) - 1 else f"width {expected}"
            raise InputError(
                f"argument '{name}' has shape {list(value.shape)}, expected {_shape_text(shape)} "
                f"({what}, got {size}){_way_out(name, axis, shape, value.shape)}"
            )


def _way_out(name: str, axis: int, shape: Sequence[int | None], given: Sequence[int]) -> str:
    """Say how to trace a graph that takes other sizes of an axis; empty for the width of rows ``[N, F]``."""
    if axis == 0:
        return ". The graph is for this number only: trace again with an example that has the other number"
    if len(shape) < 3:
        return ""
    pairs = list(zip(shape, given, strict=True))
    like = [place for place, pair in enumerate(pairs) if pair == pairs[axis]]  # a matrix [N, N] has both
    free = [place for place, size in enumerate(shape) if size is None]
    letter = "T" if like == [axis] and axis < len(shape) - 1 else "N"
    names = dict(sorted({**dict(zip(free, "BMPQ", strict=False)), **dict.fromkeys(like, letter)}.items()))
    said = f"dynamic_axes={{'{name}': {names}}}"
    return f". If the model takes other sizes there, name all axes of rows when tracing: {said}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _shape_text(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
