"""Take the objects among example arguments apart: their attributes become arguments, by their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch.utils import _pytree as pytree

from upscale_fx.compiled.inputs import ModelInputs, RowCount, TensorSpec
from upscale_fx.compiled.objects.arguments import ObjectParts, implied
from upscale_fx.compiled.objects.kinds import attributes_of, is_object, kind_of
from upscale_fx.compiled.objects.matrices import is_matrix
from upscale_fx.compiled.objects.reads import Place, Reads
from upscale_fx.errors import InputError
from upscale_fx.tracing.argument_names import NODE_ARGUMENTS

Leaf = tuple[Place, str, Any]


@dataclass
class Apart:
    """The arguments of a call with its objects taken apart.

    Attributes:
        arguments: all arguments of the graph, by name.
        order: their names, and those of arguments that keep their default.
        objects: the parts of every argument that is an object.
    """

    arguments: dict[str, Any]
    order: tuple[str, ...]
    objects: dict[str, ObjectParts] = field(default_factory=dict)


def take_examples_apart(arguments: Mapping[str, Any], order: tuple[str, ...]) -> Apart:
    """Take the objects among example arguments apart.

    An attribute keeps its name. If several objects have one of that name, or ``forward()`` has an argument of that
    name, the place is appended: ``x_left``, ``x_right``.
    """
    held = {name: value for name, value in arguments.items() if _has_parts(name, value)}
    if not held:
        return Apart(dict(arguments), order)
    leaves = [leaf for name, value in held.items() for leaf in _leaves(value, (name,))]
    names = _names(leaves, [name for name in order if name not in held])
    objects = {name: _parts(value, (name,), names) for name, value in held.items()}
    values = {names[place, key]: value for place, key, value in leaves}
    flat: dict[str, Any] = {}
    new_order: list[str] = []
    optional = implied(objects)
    for name in order:
        inner = list(objects[name].names()) if name in objects else [name]
        flat |= {
            part: values[part] if name in objects else arguments[part]
            for part in inner
            if part in values or part in arguments
        }
        new_order += [part for part in inner if part not in optional]
    new_order += [part for parts in objects.values() for part in parts.names() if part in optional]
    return Apart(flat, tuple(new_order), objects)


def _has_parts(name: Any, value: Any) -> bool:
    """Whether a value is taken apart: objects are, and sparse matrices that are no features."""
    return is_object(value) and not (is_matrix(value) and name in NODE_ARGUMENTS)


def _leaves(value: Any, place: Place) -> Iterator[Leaf]:
    for key, item in attributes_of(value).items():
        if _has_parts(key, item):
            yield from _leaves(item, (*place, key))
        elif item is not None:
            yield place, key, item


def _names(leaves: list[Leaf], taken: Iterable[str]) -> dict[tuple[Place, str], str]:
    keys = [key for _, key, _ in leaves]
    used = set(taken)
    names: dict[tuple[Place, str], str] = {}
    for place, key, _ in leaves:
        unique = keys.count(key) == 1 and key not in used and key.isidentifier()
        name = key if unique else re.sub(r"\W", "_", "_".join(map(str, (key, *place))))
        while name in used:
            name += "_"
        used.add(name)
        names[place, key] = name
    return names


def _parts(value: Any, place: Place, names: Mapping[tuple[Place, str], str]) -> ObjectParts:
    parts: dict[str, str | ObjectParts] = {}
    absent = []
    for key, item in attributes_of(value).items():
        if _has_parts(key, item):
            parts[key] = _parts(item, (*place, key), names)
        elif item is None:
            absent.append(key)
        else:
            parts[key] = names[place, key]
    return ObjectParts(kind_of(value), parts, absent=frozenset(absent))


def describable(apart: Apart, spec: Callable[[str, Any], Any]) -> Apart:
    """Leave out attributes that cannot be described, such as lists of strings; their objects remember why.

    Args:
        apart: the arguments.
        spec: describes an argument, by name and value; raises InputError.
    """
    if not apart.objects:
        return apart
    typed = {name for _, parts in places(apart.objects) if parts.kind.types for name in parts.names()}
    inner = {name for parts in apart.objects.values() for name in parts.names()}
    reasons: dict[str, dict[Any, str]] = {}
    arguments: dict[str, Any] = {}
    for name, value in apart.arguments.items():
        by_type = value if name in typed and isinstance(value, dict) else None
        items = {None: value} if by_type is None else by_type
        why = {key: text for key, item in items.items() if name in inner and (text := _refusal(name, key, item, spec))}
        if why:
            reasons[name] = why
        if by_type is not None and len(why) < len(by_type):
            arguments[name] = {key: item for key, item in by_type.items() if key not in why}
        elif not why:
            arguments[name] = value
    order = tuple(name for name in apart.order if name not in inner or name in arguments)
    objects = {name: _without(parts, arguments.keys(), reasons) for name, parts in apart.objects.items()}
    return Apart(arguments, order, objects)


def _refusal(name: str, key: Any, value: Any, spec: Callable[[str, Any], Any]) -> str:
    """Why an attribute, or that of one type, cannot be an argument; empty if it can."""
    try:
        described = spec(name, value if key is None else {key: value})
    except (InputError, RuntimeError, TypeError, ValueError, IndexError) as error:
        return str(error)
    leaves = pytree.tree_leaves(described)
    if isinstance(value, list | tuple | dict) or key is not None:
        fixed = [leaf for leaf in leaves if not isinstance(leaf, TensorSpec | RowCount)]
        if fixed or not leaves:
            what = repr(fixed[0]) if fixed else "an empty container"
            return f"{what} in it is no tensor, and would be built into the graph; pass it as a tensor"
    return ""


def _without(parts: ObjectParts, kept: Collection[str], reasons: Mapping[str, Mapping[Any, str]]) -> ObjectParts:
    inner = {
        key: part if isinstance(part, str) else _without(part, kept, reasons)
        for key, part in parts.parts.items()
        if not isinstance(part, str) or part in kept
    }
    refused = {
        (key,) if kind is None else (kind, key.removesuffix("_dict")): text
        for key, part in parts.parts.items()
        if isinstance(part, str)
        for kind, text in reasons.get(part, {}).items()
    }
    return replace(parts, parts=inner, refused=refused)


def refused_attribute(inputs: ModelInputs, reads: Reads) -> str | None:
    """Why an attribute that the model looked up cannot be an argument; None if there is no such attribute."""
    for place, parts in places(inputs.objects):
        for path, reason in parts.refused.items():
            where = (*place, *path[:-1])
            if (where, path[-1]) in reads.missing or where in reads.listed:
                return f"{_text(place)}{''.join(f'[{kind!r}]' for kind in path[:-1])}.{path[-1]}: {reason}"
    return None


def places(objects: Mapping[str, ObjectParts]) -> Iterator[tuple[Place, ObjectParts]]:
    """Yield all objects, those inside others too, with their places."""

    def inside(place: Place, parts: ObjectParts) -> Iterator[tuple[Place, ObjectParts]]:
        yield place, parts
        for key, part in parts.parts.items():
            if isinstance(part, ObjectParts):
                yield from inside((*place, key), part)

    for name, parts in objects.items():
        yield from inside((name,), parts)


def is_in(where: Place, place: Place) -> bool:
    """Whether attributes were looked up in an object, or in a type of it."""
    return where == place or (where[:-1] == place and len(where) == len(place) + 1)


def _text(place: Place) -> str:
    return str(place[0]) + "".join(f"[{part}]" if str(part).isdigit() else f".{part}" for part in place[1:])


def attributes_read(inputs: ModelInputs, reads: Reads) -> list[str]:
    """The attributes that were looked up, as text: ``data.x``, ``data['user'].x``."""
    found = []
    for place, name in (*reads.found, *reads.missing):
        inner = next((one for one, _ in places(inputs.objects) if is_in(place, one)), None)
        if inner is not None:
            found.append(f"{_text(inner)}{''.join(f'[{part!r}]' for part in place[len(inner) :])}.{name}")
    return list(dict.fromkeys(found))
