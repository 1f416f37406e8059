"""Take the objects of a call apart into the tensors that a graph takes, and put them together again."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch_geometric.data.data import BaseData

from upscale_fx.compiled.objects.kinds import (
    Kind,
    attribute,
    attributes_of,
    is_named_tuple,
    is_object,
    kind_of,
    made,
)
from upscale_fx.compiled.objects.matrices import EDGES, NODES, edges_given_instead, parts_of, why_refused
from upscale_fx.compiled.objects.reads import Place, current_reads
from upscale_fx.errors import InputError


@dataclass(frozen=True)
class ObjectParts:
    """An argument of ``forward()`` that is an object, and the arguments of the graph that its attributes are.

    Attributes:
        kind: how such an object is made.
        parts: attribute -> name of the graph's argument, or the parts of an object inside.
        present: attributes that must be there although their values do not count: a branch depends on them.
        absent: attributes that the model looked up and did not find.
        listed: all attributes of the example, if the model lists them; otherwise None.
        refused: attributes of the example that cannot be traced (their names, after that of a type), and why.
    """

    kind: Kind
    parts: Mapping[str, str | ObjectParts]
    present: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    listed: frozenset[str] | None = None
    refused: Mapping[tuple[Any, ...], str] = field(default_factory=dict)

    def names(self) -> Iterator[str]:
        """The names of the graph's arguments."""
        for part in self.parts.values():
            if isinstance(part, str):
                yield part
            else:
                yield from part.names()

    def matrices(self) -> Iterator[ObjectParts]:
        """The parts of every sparse matrix, and of every dictionary of these."""
        if self.kind.layout:
            yield self
        for part in self.parts.values():
            if not isinstance(part, str):
                yield from part.matrices()

    def build(self, arguments: Mapping[str, Any], place: Place) -> Any:
        """Make the object from arguments by name; attributes without one are left out."""
        values = {
            key: arguments[part] if isinstance(part, str) else part.build(arguments, (*place, key))
            for key, part in self.parts.items()
            if not isinstance(part, str) or part in arguments
        }
        return made(self.kind, values, current_reads(), place)

    def take(self, value: Any, text: str, wanted: Collection[str]) -> dict[str, Any]:
        """Return the wanted arguments from an object; ``text`` is how messages call it.

        Raises:
            InputError: it lacks an attribute, or has one that was missing when the graph was traced.
        """
        if self.kind.layout:
            return self._taken_edges(value, text, wanted)
        if not is_object(value) and not isinstance(value, Sequence | Mapping):
            raise InputError(
                f"{text} must be a {self.kind.name}, as when this graph was traced, got {type(value).__name__}"
            )
        self._check_listed(value, text)
        taken: dict[str, Any] = {}
        for key, part in self.parts.items():
            name = _member(text, key)
            if not isinstance(part, str):
                taken |= part.take(attribute(value, key), name, wanted)
            elif part in wanted or key in self.present:
                got = attribute(value, key)
                if got is None:
                    raise InputError(
                        f"this graph reads {name}, which the {type(value).__name__} does not have (it has "
                        f"{', '.join(map(str, attributes_of(value))) or 'nothing'}); to call it with such objects, "
                        f"trace again with one as example"
                    )
                if part in wanted:
                    taken[part] = got
        for key in sorted(self.absent):
            if attribute(value, key) is not None and not _is_plain_count(value, key):
                raise InputError(
                    f"{_member(text, key)} was missing when this graph was traced, and the model looks for it; to call "
                    f"it with such objects, trace again with one as example"
                )
        return taken

    def _taken_edges(self, value: Any, text: str, wanted: Collection[str]) -> dict[str, Any]:
        """Return the edges of a sparse matrix; an ``edge_index`` is taken in its place."""
        given = edges_given_instead(value, self.kind.cls)
        if given is None:
            has_entries = is_object(value) and kind_of(value).layout
            if not has_entries or isinstance(value, Mapping) != (self.kind.cls is dict):
                what = why_refused(value) or f"is a {type(value).__name__}"
                raise InputError(f"argument '{text}' must be a {self.kind.name} or an edge_index, and {what}")
            given = parts_of(value, self.kind.layout, NODES in self.parts)
        return {str(part): given[key] for key, part in self.parts.items() if part in wanted and key in given}

    def _check_listed(self, value: Any, text: str) -> None:
        """Raise an InputError if a model that lists the attributes would find others, or another number of items."""
        if self.listed is not None:
            other = sorted(self.listed ^ set(attributes_of(value)))
            if other:
                raise InputError(
                    f"forward() lists the attributes of {text}, and {', '.join(other)} is not in both the "
                    f"{type(value).__name__} and the example that this graph was traced with"
                )
        if issubclass(self.kind.cls, list | tuple) and not is_named_tuple(value) and len(value) != len(self.parts):
            raise InputError(f"{text} had {len(self.parts)} items when this graph was traced, got {len(value)}")


def _is_plain_count(value: Any, key: str) -> bool:
    """Whether an attribute is the number of nodes, and only repeats what other attributes say."""
    if key not in ("num_nodes", "num_nodes_dict") or not isinstance(value, BaseData):
        return False
    bare = copy.copy(value)
    for store in bare.node_stores:
        store.pop("num_nodes", None)
        if not store.can_infer_num_nodes:
            return False
    return all(
        store.num_nodes == other.num_nodes for store, other in zip(value.node_stores, bare.node_stores, strict=True)
    )


def _member(text: str, key: str) -> str:
    return f"{text}[{key}]" if key.isdigit() else f"{text}.{key}"


def matrices_of(objects: Mapping[str, ObjectParts]) -> list[ObjectParts]:
    """The parts of all sparse matrices, and dictionaries of these, among some objects."""
    return [matrix for parts in objects.values() for matrix in parts.matrices()]


def implied(objects: Mapping[str, ObjectParts]) -> set[str]:
    """The arguments of a graph that a call with an ``edge_index`` may leave out: weights and numbers of nodes."""
    return {str(part) for matrix in matrices_of(objects) for key, part in matrix.parts.items() if key != EDGES}


def built(objects: Mapping[str, ObjectParts], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``forward()``: objects are put together, all others stay."""
    used = {name for parts in objects.values() for name in parts.names()}
    rest = {name: value for name, value in arguments.items() if name not in used}
    return {**{name: parts.build(arguments, (name,)) for name, parts in objects.items()}, **rest}


def has_objects(args: Sequence[Any], kwargs: Mapping[str, Any], objects: Mapping[str, ObjectParts]) -> bool:
    """Whether a call passes objects, rather than the graph's own arguments."""
    return any(map(is_object, args)) or any(name in objects for name in kwargs)


def taken_apart(
    objects: Mapping[str, ObjectParts],
    order: Sequence[str],
    wanted: Collection[str],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of the graph by name, and the objects of the call by the names of ``forward()``.

    Args:
        objects: the arguments of ``forward()`` that are objects.
        order: names of the arguments of ``forward()``.
        wanted: the graph's arguments.
        args: positional arguments of the call, as ``forward()`` takes them.
        kwargs: keyword arguments of the call; the graph's own names are taken too, and replace attributes.

    Raises:
        InputError: too many arguments, an object is missing, or one does not fit.
    """
    if len(args) > len(order):
        raise InputError(f"this graph takes {', '.join(order)}, got {len(args)} positional arguments")
    given = {**dict(zip(order, args, strict=False)), **kwargs}
    taken: dict[str, Any] = {}
    for name, parts in objects.items():
        if name not in given:
            raise InputError(f"argument '{name}' is missing: a {parts.kind.name}, as when this graph was traced")
        taken |= parts.take(given[name], name, wanted)
    rest = {name: value for name, value in given.items() if name not in objects}
    return {**taken, **rest}, {name: given[name] for name in objects}
