"""What users say about arguments: ``dynamic_axes``, which axes count rows, and ``indices``, what integers number.

Both are dictionaries by argument name; within tuples and dictionaries of tensors they are nested as the argument is.
The notation is that of torch.onnx and torch.export: ``{"x": {0: "N"}}``, ``{"x": [0]}``, ``{"x": ("N", None)}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from upscale_fx.compiled.inputs import ModelInputs, TensorSpec
from upscale_fx.errors import InputError
from upscale_fx.tracing.several_graphs import Leaf


@dataclass(frozen=True)
class StatedAxes:
    """The axes and indices that a user named.

    Attributes:
        dynamic_axes: by argument, the name of each axis that counts rows. Equal names are equal numbers of rows; all
            other axes of these arguments have the size of the example.
        indices: by argument of integers, the name of the rows they number, or None for categories.
    """

    dynamic_axes: Mapping[str, Any] | None = None
    indices: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for option, example in (("dynamic_axes", '{"x": {0: "N"}}'), ("indices", '{"pairs": "N"}')):
            said = getattr(self, option)
            if said is not None and not isinstance(said, Mapping):
                raise InputError(f"{option} is a dictionary by argument name, such as {example}; got {said!r}")

    def __bool__(self) -> bool:
        return bool(self.dynamic_axes) or bool(self.indices)

    def applied(self, inputs: ModelInputs, arguments: Mapping[str, Any]) -> ModelInputs:
        """Return a description of example arguments changed to what was said.

        Raises:
            InputError: an argument is unknown, has no such axis, or the example contradicts what was said.
        """
        axes = dict(_leaves("dynamic_axes", self.dynamic_axes, arguments))
        targets = dict(_leaves("indices", self.indices, arguments))
        named = {leaf: _named_axes(leaf, said, _at(arguments, leaf)) for leaf, said in axes.items()}
        sizes = _sizes(named, arguments)
        symbols = _symbols(named, inputs, {name for said in targets.values() for name in _names(said)})
        known = inputs.symbols() | {symbols[name]: size for name, size in sizes.items()}
        words = {**{symbol: symbol for symbol in known}, **_typed_rows(inputs), **symbols}
        words |= _shared_names([_names(said) for said in targets.values()], words)

        def change(path: Any, spec: Any) -> Any:
            leaf = tuple(getattr(step, "key", getattr(step, "idx", None)) for step in path)
            if leaf in named and isinstance(spec, TensorSpec):
                fixed = _at(arguments, leaf).shape
                found = tuple(
                    symbols[named[leaf][axis]] if axis in named[leaf] else size for axis, size in enumerate(fixed)
                )
                spec = replace(spec, axes=found)
            if leaf in targets:
                spec = _pointing(leaf, targets[leaf], spec, _at(arguments, leaf), words, known)
            return spec

        specs = pytree.tree_map_with_path(change, inputs.arguments)
        return replace(inputs, arguments=specs, stated=tuple(symbols.values()))


def _leaves(option: str, said: Mapping[str, Any] | None, arguments: Mapping[str, Any]) -> Iterator[tuple[Leaf, Any]]:
    """Yield what was said of every tensor that was named."""
    for name, about in (said or {}).items():
        if name not in arguments:
            raise InputError(
                f"{option} names '{name}', but the example has no such argument; it has {_listed(arguments)}"
            )
        yield from _within(option, (name,), about, arguments[name])


def _within(option: str, leaf: Leaf, said: Any, value: Any) -> Iterator[tuple[Leaf, Any]]:
    if isinstance(value, Tensor):
        yield leaf, said
        return
    where = f"{option}[{_text(leaf)}]"
    if isinstance(value, Mapping | tuple | list) and said is not None:
        keys = list(value) if isinstance(value, Mapping) else list(range(len(value)))
        if not isinstance(said, Mapping):
            if not isinstance(said, Sequence) or isinstance(said, str) or len(said) != len(keys):
                raise InputError(f"{where} is {said!r}, but '{_text(leaf)}' has the parts {_listed(keys)}: name them")
            said = dict(zip(keys, said, strict=True))
        for key, about in said.items():
            if key not in keys:
                raise InputError(f"{where} names {key!r}, but '{_text(leaf)}' has {_listed(keys)}")
            if about is not None or option == "indices":
                yield from _within(option, (*leaf, key), about, value[key])
        return
    if said is not None:
        raise InputError(f"{where} is {said!r}, but '{_text(leaf)}' is a {type(value).__name__}, not a tensor")


def _named_axes(leaf: Leaf, said: Any, value: Tensor) -> dict[int, str]:
    """Return the names of axes; checks that the tensor has them."""
    where, count = f"dynamic_axes[{_text(leaf)}]", value.dim()
    if said is None:
        return {}
    if isinstance(said, Mapping):
        pairs = list(said.items())
    elif isinstance(said, list | tuple) and all(type(axis) is int for axis in said):
        pairs = [(axis, f"{_text(leaf)}, axis {axis}") for axis in said]
    elif isinstance(said, list | tuple) and len(said) == count:
        pairs = list(enumerate(said))
    else:
        raise InputError(f'{where} gives axes their names, as in {{0: "N"}}; got {said!r}')
    found: dict[int, str] = {}
    for axis, name in pairs:
        if type(axis) is not int or not -count <= axis < count:
            raise InputError(f"{where} names axis {axis!r}, but '{_text(leaf)}' has shape {list(value.shape)}")
        text = name if isinstance(name, str) else getattr(name, "__name__", None)  # torch.export.Dim
        if name is not None and not isinstance(text, str):
            raise InputError(f'{where} names axis {axis} {name!r}; a name is a string such as "N"')
        if text is not None:
            found[axis % count] = text
    return found


def _sizes(named: Mapping[Leaf, Mapping[int, str]], arguments: Mapping[str, Any]) -> dict[str, int]:
    """Return the size of every name in the example; one name must have one size."""
    sizes: dict[str, int] = {}
    where: dict[str, str] = {}
    for leaf, axes in named.items():
        for axis, name in axes.items():
            size, here = _at(arguments, leaf).shape[axis], f"axis {axis} of '{_text(leaf)}'"
            if sizes.setdefault(name, size) != size:
                raise InputError(
                    f"dynamic_axes calls {where[name]} and {here} both {name!r}, but the example has "
                    f"{sizes[name]} and {size} rows there"
                )
            where.setdefault(name, here)
    return sizes


def _symbols(named: Mapping[Leaf, Mapping[int, str]], inputs: ModelInputs, numbered: set[str]) -> dict[str, str]:
    """Return a row symbol for every name: that which was guessed for one of its axes, or else a new one."""
    guesses: dict[str, list[str]] = {}
    for leaf, axes in named.items():
        spec = _at(inputs.arguments, leaf)
        for axis, name in axes.items():
            guess = spec.axes[axis] if isinstance(spec, TensorSpec) else None
            guesses.setdefault(name, []).extend([guess] if isinstance(guess, str) else [])
    symbols: dict[str, str] = {}
    for name in sorted(guesses, key=lambda name: name not in guesses[name]):  # names like ours first
        free = [guess for guess in guesses[name] if guess not in symbols.values() and guess[0] != "K"]
        used = {*inputs.symbols(), *symbols.values()}
        letter = "N" if name in numbered else "R"
        new = next(symbol for number in range(2, 1000) if (symbol := f"{letter}{number}") not in used)
        symbols[name] = free[0] if free else new
    return symbols


def _shared_names(said: Sequence[tuple[Any, ...]], words: Mapping[Any, str]) -> dict[Any, str]:
    """Return symbols for names of rows that no argument has, if several indices number them (clusters)."""
    new = [name for name in dict.fromkeys(name for names in said for name in names) if name not in words]
    shared = [name for name in new if sum(name in names for names in said) > 1]
    free = (symbol for number in range(2, 1000) if (symbol := f"N{number}") not in words.values())
    return dict(zip(shared, free, strict=False))


def _pointing(
    leaf: Leaf, said: Any, spec: Any, value: Tensor, words: Mapping[Any, str], known: Mapping[str, int]
) -> Any:
    """Return the description of an index into the rows that were said."""
    where = f"indices[{_text(leaf)}]"
    if not isinstance(spec, TensorSpec) or value.is_floating_point() or value.dtype == torch.bool or not value.dim():
        raise InputError(f"{where}: '{_text(leaf)}' has no integers that could number rows ({value.dtype})")
    pool = value.detach().cpu()[:4096]
    if said is None:
        return replace(spec, role="index", pool=pool, into=(), told=True)
    names = _names(said)
    for name in names:
        if name not in words:
            raise InputError(f"{where} is {name!r}, but no rows have this name; there are {_listed(words)}")
    rows = [words[name] for name in names]
    parts = list(value) if spec.role == "edges" and len(rows) == 2 else [value] * len(rows)
    for name, symbol, part in zip(names, rows, parts, strict=True):
        if known.get(symbol) and part.numel() and int(part.max()) > known[symbol] - 1 + (spec.role != "edges"):
            raise InputError(
                f"{where} is {name!r}, which has {known[symbol]} rows in the example, but '{_text(leaf)}' holds "
                f"{int(part.max())}"
            )
    if spec.role == "edges":
        return replace(spec, ends=(rows[0], rows[-1]), limit=None, told=True)
    return replace(spec, role="index", pool=pool, into=tuple(dict.fromkeys(rows)), told=True)


def _names(said: Any) -> tuple[Any, ...]:
    """Return the one or two names of rows that an index was said to number."""
    if said is None:
        return ()
    names = tuple(said) if isinstance(said, list | tuple) else (said,)
    names = tuple(name if isinstance(name, str) else getattr(name, "__name__", name) for name in names)
    if not names or len(names) > 2:
        raise InputError(f"indices gives one name of rows, or two for two columns of node numbers; got {said!r}")
    return names


def _typed_rows(inputs: ModelInputs) -> dict[Any, str]:
    """Return the rows of every type of nodes, by the name of the type."""
    leaves = pytree.tree_flatten_with_path(inputs.arguments)[0]
    found = {}
    for path, spec in leaves:
        key = getattr(path[-1], "key", None)
        if len(path) > 1 and isinstance(spec, TensorSpec) and spec.axes and isinstance(spec.axes[0], str):
            found[key] = spec.axes[0]
    return found


def _at(arguments: Any, leaf: Leaf) -> Any:
    for key in leaf:
        arguments = arguments[key]
    return arguments


def _text(leaf: Leaf) -> str:
    return str(leaf[0]) + "".join(f"[{key!r}]" for key in leaf[1:])


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names) or "none"
