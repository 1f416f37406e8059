"""Record which attributes of an object a model looks up, and which it does not find."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from torch_geometric.data.data import BaseData
from torch_geometric.data.storage import BaseStorage

#: Where an object is: the argument, attributes or list items on the way to it, and a type of ``HeteroData``.
Place = tuple[Any, ...]


@dataclass
class Reads:
    """Attributes that were looked up by name, as (place of the object, name).

    Attributes:
        found: those that the object has.
        missing: those that it does not have, or that are None.
        listed: objects whose attributes were listed or counted, so that it matters which ones there are.
    """

    found: dict[tuple[Place, str], None] = field(default_factory=dict)
    missing: dict[tuple[Place, str], None] = field(default_factory=dict)
    listed: dict[Place, None] = field(default_factory=dict)

    def note(self, place: Place, name: Any, found: bool) -> None:
        """Record one look-up."""
        if isinstance(name, str) and not name.startswith("_"):
            (self.found if found else self.missing)[place, name] = None


_reads: ContextVar[Reads | None] = ContextVar("reads", default=None)


@contextmanager
def recorded() -> Iterator[Reads]:
    """Within the block, objects that are made for a model's call record what is read of them."""
    reads = Reads()
    token = _reads.set(reads)
    try:
        yield reads
    finally:
        _reads.reset(token)


def current_reads() -> Reads | None:
    """The record of the innermost :func:`recorded` block."""
    return _reads.get()


def watched(cls: type, reads: Reads, place: Place) -> type:
    """A subclass of the same name whose instances record look-ups.

    ``watched_class`` is the class itself, ``watched_place`` the place.
    """
    if issubclass(cls, BaseStorage):
        body = _storage_body(cls, reads, place)
    elif issubclass(cls, BaseData):
        body = _listing(cls, reads, place) | {"__contains__": _contains(cls, reads, place)}
    elif issubclass(cls, dict):
        body = _listing(cls, reads, place) | {"__contains__": _contains(cls, reads, place)} | _items(cls, reads, place)
    else:
        body = _attribute_body(cls, reads, place)
    body |= {"watched_class": cls, "watched_place": place, "__module__": cls.__module__}
    return type(cls)(cls.__name__, (cls,), body | {"__qualname__": cls.__qualname__})


def _storage_body(cls: Any, reads: Reads, place: Place) -> dict[str, Any]:
    def getitem(self: Any, key: str) -> Any:
        reads.note(place, key, key in self._mapping)
        return cls.__getitem__(self, key)

    def get(self: Any, key: str, value: Any = None) -> Any:
        reads.note(place, key, key in self._mapping)
        return cls.get(self, key, value)

    return _listing(cls, reads, place) | {"__getitem__": getitem, "get": get}


def _contains(cls: Any, reads: Reads, place: Place) -> Any:
    def contains(self: Any, key: str) -> bool:
        found: bool = cls.__contains__(self, key)
        reads.note(place, key, found)
        return found

    return contains


def _items(cls: Any, reads: Reads, place: Place) -> dict[str, Any]:
    def getitem(self: Any, key: str) -> Any:
        reads.note(place, key, dict.__contains__(self, key))
        return cls.__getitem__(self, key)

    def get(self: Any, key: str, value: Any = None) -> Any:
        reads.note(place, key, dict.__contains__(self, key))
        return cls.get(self, key, value)

    return {"__getitem__": getitem, "get": get}


_INTERNAL = (f"{os.sep}torch_geometric{os.sep}", str(Path(__file__).parents[2]) + os.sep)


def _is_internal(frame: FrameType) -> bool:
    """Whether code is PyG's or of this package, rather than the model's."""
    return any(folder in frame.f_code.co_filename for folder in _INTERNAL)


#: Methods that list all attributes.
_LISTING = ("__iter__", "__len__", "__call__", "keys", "values", "items", "to_dict", "to_namedtuple")


def _listing(cls: Any, reads: Reads, place: Place) -> dict[str, Any]:
    """Methods that record that the attributes were listed, unless PyG's own code lists them."""

    def recording(method: Any) -> Any:
        def listed(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not args and not _is_internal(sys._getframe(1)):
                reads.listed[place] = None
            return method(self, *args, **kwargs)

        return listed

    return {name: recording(method) for name in _LISTING if (method := getattr(cls, name, None)) is not None}


def _attribute_body(cls: Any, reads: Reads, place: Place) -> dict[str, Any]:
    def getattribute(self: Any, name: str) -> Any:
        if name == "__dict__" and not _is_internal(sys._getframe(1)):
            reads.listed[place] = None
        try:
            value = cls.__getattribute__(self, name)
        except AttributeError:
            reads.note(place, name, found=False)
            raise
        if name not in cls.__dict__:
            reads.note(place, name, found=value is not None)
        return value

    return {"__getattribute__": getattribute}
