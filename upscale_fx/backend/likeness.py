"""Descriptions of the arguments of Dynamo's graph.

Their names and values tell what they are, as for example inputs; Dynamo's symbols tell which sizes vary.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from upscale_fx.backend.arguments import Argument
from upscale_fx.backend.dynamic import FixedSizeError
from upscale_fx.compiled.inputs import ModelInputs, RowCount, TensorSpec
from upscale_fx.errors import InputError
from upscale_fx.tracing.examples import inputs_from_examples


def describe(arguments: Sequence[Argument], values: Mapping[str, Any], model: nn.Module) -> ModelInputs:
    """Describe the arguments: an axis has rows where Dynamo has a symbol, and one symbol is one kind of row.

    Raises:
        FixedSizeError: Dynamo made a constant of a size that graphs differ in.
        InputError: a graph is empty, or an argument is of a kind that cannot be described.
    """
    examples: dict[str, Any] = {}
    for argument in arguments:
        top, *keys = argument.path
        if _is_nested(argument):
            examples[top] = _put(examples.get(top), keys, values[argument.name])
        else:
            examples[argument.name] = values[argument.name]
    kind = inspect.Parameter.KEYWORD_ONLY
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in examples])
    described = inputs_from_examples(model, signature, examples)
    specs = {}
    for argument in arguments:
        spec = described.arguments[argument.path[0] if _is_nested(argument) else argument.name]
        for key in argument.path[1:] if _is_nested(argument) else ():
            spec = spec[key]
        specs[argument.name] = spec
    merged = _with_symbols(arguments, specs)
    return replace(described, arguments=merged, order=tuple(merged), positional=(), degree=0)


def _is_nested(argument: Argument) -> bool:
    """Whether an argument's place in a container matters: by type of nodes or edges, or as source and target."""
    top, *keys = argument.path
    types = str(top).endswith("_dict") or any(isinstance(key, tuple) for key in keys)
    return bool(keys) and (types or (len(keys) == 1 and isinstance(keys[0], int) and str(top) in ("x", "size", "pos")))


def _put(container: Any, keys: Sequence[Any], value: Any) -> Any:
    """A container with a value put at ``keys``; missing elements of a tuple are None."""
    if not keys:
        return value
    key, *rest = keys
    if isinstance(key, int):
        items = list(container or ())
        items += [None] * (max(key + 1, 2) - len(items))
        items[key] = _put(items[key], rest, value)
        return tuple(items)
    return {**(container or {}), key: _put((container or {}).get(key), rest, value)}


def _with_symbols(arguments: Sequence[Argument], specs: Mapping[str, Any]) -> dict[str, Any]:
    """The specs with Dynamo's kinds of rows."""
    first: dict[str, str] = {}  # the first of all rows that Dynamo takes for equal
    of_symbol: dict[str, str] = {}
    single: dict[str, int] = {}
    fixed: list[tuple[str, int]] = []
    for argument in arguments:
        spec = specs[argument.name]
        axes = spec.axes if isinstance(spec, TensorSpec) else (spec.symbol,) if isinstance(spec, RowCount) else ()
        for axis, (row, size) in enumerate(zip(axes, argument.sizes, strict=False)):
            if not isinstance(row, str):
                continue
            if isinstance(size, str):
                first[row] = of_symbol.setdefault(size, first.get(row, row))
            elif size == 0:
                raise InputError(_empty(argument, axis))
            elif size == 1:
                single[row] = size
            else:
                fixed.append((argument.name, axis))
    if fixed:
        sizes = {argument.name: argument.sizes for argument in arguments}
        raise FixedSizeError(fixed, [int(sizes[name][axis]) for name, axis in fixed])
    return {name: _renamed(spec, first, single) for name, spec in specs.items()}


def _renamed(spec: Any, names: Mapping[str, str], single: Mapping[str, int]) -> Any:
    if isinstance(spec, RowCount):
        return RowCount(names.get(spec.symbol, spec.symbol))
    if not isinstance(spec, TensorSpec):
        return spec
    axes = tuple(single.get(axis, names.get(axis, axis)) if isinstance(axis, str) else axis for axis in spec.axes)
    source, target = (names.get(end, end) for end in spec.ends)
    limit = next((single[end] for end in spec.ends if end in single), spec.limit)
    return replace(spec, axes=axes, ends=(source, target), limit=limit)


def _empty(argument: Argument, axis: int) -> str:
    return (
        f"axis {axis} of '{argument.name}' is empty, and torch.compile makes a special graph for that, which does "
        f"not show what the model does with others. Call the result of upscale_fx.prune, which takes empty graphs "
        f"too, or the model itself"
    )


def fits(arguments: Sequence[Argument], inputs: ModelInputs, values: Mapping[str, Any]) -> bool:
    """Whether arguments have the fixed widths, and integers the fixed values, of a description."""
    for argument in arguments:
        spec, value = inputs.arguments[argument.name], values[argument.name]
        if isinstance(spec, TensorSpec):
            assert isinstance(value, Tensor)
            if any(fixed not in (None, size) for fixed, size in zip(spec.shape, value.shape, strict=True)):
                return False
        elif not isinstance(spec, RowCount) and spec != value:
            return False
    return True
