"""What the arguments of Dynamo's graph look like.

Their names and values say what they are, as those of example inputs do; symbols say which sizes vary.
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


def describe(given: Sequence[Argument], values: Mapping[str, Any], model: nn.Module) -> ModelInputs:
    """Describe the arguments: rows are where Dynamo has a symbol, and one symbol is one kind of row.

    Raises:
        FixedSizeError: Dynamo made a constant of a size that graphs differ in.
        InputError: a graph is empty, or an argument is of a kind that cannot be described.
    """
    kinds: dict[str, Any] = {}
    for argument in given:
        top, *keys = argument.path
        if _is_nested(argument):
            kinds[top] = _put(kinds.get(top), keys, values[argument.name])
        else:
            kinds[argument.name] = values[argument.name]
    kind = inspect.Parameter.KEYWORD_ONLY
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in kinds])
    found = inputs_from_examples(model, signature, kinds)
    specs = {}
    for argument in given:
        spec = found.arguments[argument.path[0] if _is_nested(argument) else argument.name]
        for key in argument.path[1:] if _is_nested(argument) else ():
            spec = spec[key]
        specs[argument.name] = spec
    merged = _with_symbols(given, specs)
    return replace(found, arguments=merged, order=tuple(merged), positional=(), degree=0, equal=False)


def _is_nested(argument: Argument) -> bool:
    """Whether the place in a container tells what an argument is: types of nodes and edges, sources and targets."""
    top, *keys = argument.path
    types = str(top).endswith("_dict") or any(isinstance(key, tuple) for key in keys)
    return bool(keys) and (types or (len(keys) == 1 and isinstance(keys[0], int) and str(top) in ("x", "size", "pos")))


def _put(container: Any, keys: Sequence[Any], value: Any) -> Any:
    """A container with a value at its place; missing elements of a tuple are None."""
    if not keys:
        return value
    key, *rest = keys
    if isinstance(key, int):
        items = list(container or ())
        items += [None] * (max(key + 1, 2) - len(items))
        items[key] = _put(items[key], rest, value)
        return tuple(items)
    return {**(container or {}), key: _put((container or {}).get(key), rest, value)}


def _with_symbols(given: Sequence[Argument], specs: Mapping[str, Any]) -> dict[str, Any]:
    """Specs in which rows are what Dynamo says."""
    one: dict[str, str] = {}  # of rows that Dynamo takes for the same, the first
    of_symbol: dict[str, str] = {}
    single: dict[str, int] = {}
    fixed: list[tuple[str, int]] = []
    for argument in given:
        spec = specs[argument.name]
        axes = spec.axes if isinstance(spec, TensorSpec) else (spec.symbol,) if isinstance(spec, RowCount) else ()
        for axis, (row, size) in enumerate(zip(axes, argument.sizes, strict=False)):
            if not isinstance(row, str):
                continue
            if isinstance(size, str):
                one[row] = of_symbol.setdefault(size, one.get(row, row))
            elif size == 0:
                raise InputError(_empty(argument, axis))
            elif size == 1:
                single[row] = size
            else:
                fixed.append((argument.name, axis))
    if fixed:
        sizes = {argument.name: argument.sizes for argument in given}
        raise FixedSizeError(fixed, [int(sizes[name][axis]) for name, axis in fixed])
    return {name: _renamed(spec, one, single) for name, spec in specs.items()}


def _renamed(spec: Any, one: Mapping[str, str], single: Mapping[str, int]) -> Any:
    if isinstance(spec, RowCount):
        return RowCount(one.get(spec.symbol, spec.symbol))
    if not isinstance(spec, TensorSpec):
        return spec
    axes = tuple(single.get(axis, one.get(axis, axis)) if isinstance(axis, str) else axis for axis in spec.axes)
    first, second = (one.get(end, end) for end in spec.ends)
    limit = next((single[end] for end in spec.ends if end in single), spec.limit)
    return replace(spec, axes=axes, ends=(first, second), limit=limit)


def _empty(argument: Argument, axis: int) -> str:
    return (
        f"axis {axis} of '{argument.name}' is empty, and torch.compile makes a graph of its own for that, from which "
        f"it cannot be told what the model does with others. Call what upscale_fx.prune returns, which takes empty "
        f"graphs too, or the model itself"
    )


def fits(given: Sequence[Argument], inputs: ModelInputs, values: Mapping[str, Any]) -> bool:
    """Whether arguments have the widths, and integers the values, that a description says are fixed."""
    for argument in given:
        spec, value = inputs.arguments[argument.name], values[argument.name]
        if isinstance(spec, TensorSpec):
            assert isinstance(value, Tensor)
            if any(size is not None and size != own for size, own in zip(spec.shape, value.shape, strict=True)):
                return False
        elif not isinstance(spec, RowCount) and spec != value:
            return False
    return True
