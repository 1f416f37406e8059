"""Results that are objects: a graph returns their tensors, and a call puts the objects together.

A *template* says how a result was built. Tuples, lists, dictionaries and tensors need none.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Awaitable, Collection, Coroutine, Iterator, Mapping, MappingView
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch_geometric.data import HeteroData
from torch_geometric.data.data import BaseData

from upscale_fx.compiled.objects.kinds import Kind, attributes_of, is_named_tuple, is_object, kind_of, made
from upscale_fx.errors import TraceError

#: The key of the template of a graph's results in the ``meta`` of its output node.
RESULTS = "results"


@dataclass(frozen=True)
class Made:
    """An object that ``forward()`` makes: its kind, and per attribute a template of its value."""

    kind: Kind
    attributes: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Returned:
    """An object that ``forward()`` takes and returns: the attributes that it sets and those that it deletes."""

    argument: str
    attributes: tuple[tuple[str, Any], ...]
    deleted: tuple[str, ...]


@dataclass(frozen=True)
class Container:
    """A tuple, list or dictionary that holds an object somewhere: per key a template, or None for a plain value."""

    items: tuple[tuple[Any, Any], ...]


@dataclass(frozen=True)
class Original:
    """An object that ``forward()`` was called with, and its attributes then."""

    name: str
    value: Any
    attributes: Mapping[str, Any]


def originals(arguments: Mapping[str, Any], objects: Collection[str]) -> list[Original]:
    """The objects among the arguments of a call, before it."""
    return [Original(name, arguments[name], _snapshot(arguments[name])) for name in objects]


def _snapshot(value: Any) -> dict[str, Any]:
    return {key: dict(item) if isinstance(item, dict) else item for key, item in attributes_of(value).items()}


def unpacked(value: Any, given: list[Original], same: Any) -> tuple[Any, Any]:
    """Return a result with tuples in place of its objects, and its template; None where it holds no object.

    Args:
        value: what ``forward()`` returned.
        given: the objects that it was called with.
        same: ``same(new, old)``: whether an attribute is still what it was.

    Raises:
        TraceError: the result holds an object that cannot be put together again.
    """
    place = getattr(type(value), "watched_place", ())  # a copy of an argument, such as data.clone(), has the same one
    source = next((one for one in given if one.value is value or place == (one.name,)), None)
    if source is not None:
        return _unpacked_argument(value, source, given, same)
    if isinstance(value, dict) and not dataclasses.is_dataclass(value):
        return _unpacked_container(value, given, same)
    if is_object(value) and (is_named_tuple(value) or not isinstance(value, list | tuple)):
        found = attributes_of(value)
        parts = {key: unpacked(item, given, same) for key, item in found.items()}
        template = Made(kind_of(value, strict=True), tuple((key, part[1]) for key, part in parts.items()))
        return tuple(part[0] for part in parts.values()), template
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return _unpacked_container(value, given, same)
    _check_leaf(value)
    return value, None


def _unpacked_argument(value: Any, source: Original, given: list[Original], same: Any) -> tuple[Any, Any]:
    now = attributes_of(value)
    changed = {}
    for key, item in now.items():
        old = source.attributes.get(key)
        if isinstance(item, dict) and isinstance(old, dict):
            other = {part: leaf for part, leaf in item.items() if part not in old or not same(leaf, old[part])}
            if other:
                changed[key] = unpacked(other, given, same)
        elif key not in source.attributes or not same(item, old):
            changed[key] = unpacked(item, given, same)
    deleted = tuple(key for key, item in source.attributes.items() if key not in now and item is not None)
    template = Returned(source.name, tuple((key, part[1]) for key, part in changed.items()), deleted)
    return tuple(part[0] for part in changed.values()), template


def _unpacked_container(value: Any, given: list[Original], same: Any) -> tuple[Any, Any]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    parts = {key: unpacked(item, given, same) for key, item in items}
    if all(part[1] is None for part in parts.values()):
        return value, None
    plain = {key: part[0] for key, part in parts.items()}
    template = Container(tuple((key, part[1]) for key, part in parts.items()))
    return (plain if isinstance(value, dict) else type(value)(plain.values())), template


#: What a graph may return besides tensors.
_CONSTANTS = (str, bytes, bool, int, float, complex, type(None), torch.dtype, torch.device, torch.Size, slice, range)


def _check_leaf(value: Any) -> None:
    if isinstance(value, (Tensor, tuple, list, dict, *_CONSTANTS)):
        return
    kind = f"{type(value).__module__}.{type(value).__name__}"
    if isinstance(value, Awaitable):
        if isinstance(value, Coroutine):
            value.close()  # nobody will wait for it
        raise TraceError(f"forward() is asynchronous and returns a {kind}; define it without async, and return tensors")
    if isinstance(value, Iterator | MappingView):
        raise TraceError(
            f"forward() returns a {kind}, which gives its values later and once, and a graph returns all of them at "
            f"once; return tuple(...) of it, and where forward() has yield, collect the values in a list and return "
            f"tuple(values)"
        )
    raise TraceError(
        f"forward() returns a {kind}, in which no tensors can be found: "
        f"return tensors, or tuples, lists, dictionaries, dataclasses, named tuples, SimpleNamespace or Data of them"
    )


def packed(template: Any, value: Any, given: Mapping[str, Any]) -> Any:
    """Return the result that ``forward()`` would return, from that of the graph; objects of the call do not change.

    Args:
        template: how the result is built; None: it is returned as it is.
        value: what the graph returned.
        given: the objects of the call, by the names of ``forward()``.
    """
    if template is None:
        return value
    if isinstance(template, Container):
        parts = dict(template.items)
        if isinstance(value, dict):
            return {key: packed(parts[key], item, given) for key, item in value.items()}
        return type(value)(packed(parts[place], item, given) for place, item in enumerate(value))
    values = {key: packed(part, item, given) for (key, part), item in zip(template.attributes, value, strict=True)}
    if isinstance(template, Made):
        return made(template.kind, values)
    return _changed(given[template.argument], values, template.deleted)


def _changed(value: Any, values: Mapping[str, Any], deleted: tuple[str, ...]) -> Any:
    """A shallow copy of an object with other attributes."""
    if is_named_tuple(value):
        return value._replace(**values)
    new = copy.copy(value)
    for key in deleted:
        new.pop(key, None) if isinstance(new, dict) else delattr(new, key)
    for key, item in values.items():
        if isinstance(new, HeteroData) and key.endswith("_dict") and isinstance(item, dict):
            for part, leaf in item.items():
                new[part][key[:-5]] = leaf
        elif isinstance(new, dict):
            new[key] = item
        else:
            setattr(new, key, item) if isinstance(new, BaseData) else object.__setattr__(new, key, item)
    return new


def tensors_of(value: Any) -> list[Any]:
    """Return the leaves of a result, with all objects in it taken apart."""
    leaves: list[Any] = []
    for leaf in pytree.tree_leaves(value, is_leaf=lambda part: is_object(part) and not isinstance(part, list)):
        if is_object(leaf):
            for item in attributes_of(leaf).values():
                leaves += tensors_of(item)
        else:
            leaves.append(leaf)
    return leaves
