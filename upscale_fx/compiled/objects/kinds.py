"""Objects that hold tensors as attributes: which values are such objects, their attributes, and how one is made."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.data.data import BaseData

from upscale_fx.compiled.objects.matrices import holds_matrices, is_matrix, layout_of, matrix_of, parts_of
from upscale_fx.compiled.objects.reads import Place, Reads, watched

#: Packages whose objects are no bags of attributes: sparse matrices, arrays, streams of batches.
_OPAQUE = ("torch", "torch_geometric", "torch_sparse", "numpy", "scipy", "builtins", "collections", "upscale_fx")


@dataclass(frozen=True)
class Kind:
    """How an object is made.

    Attributes:
        cls: its class; of a ``Batch`` the class of its graphs.
        batched: whether it is a ``Batch``.
        types: for ``HeteroData``, the types of nodes and of edges, in order.
        strict: a pickle needs the very class, as for results; otherwise the nearest base class that can be imported
            stands in for it, since the class of an argument is only needed to call the model itself.
        layout: of a sparse matrix, or a dictionary of these, how entries are stored; otherwise empty.
    """

    cls: type
    batched: bool = False
    types: tuple[Any, ...] = ()
    strict: bool = False
    layout: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        cls = self.cls if self.strict else _importable(self.cls)
        return Kind, (cls, self.batched, self.types, self.strict, self.layout)

    @property
    def name(self) -> str:
        """The name of its class, as users know it."""
        if self.layout:
            return "dictionary of sparse matrices" if self.cls is dict else "sparse matrix"
        return f"{self.cls.__name__}Batch" if self.batched else self.cls.__name__


def is_object(value: Any) -> bool:
    """Whether a value is an object with attributes, or a list or tuple that holds one; a sparse matrix has edges."""
    if is_matrix(value):
        return True
    if isinstance(value, BaseData | types.SimpleNamespace | argparse.Namespace) or is_named_tuple(value):
        return True
    if isinstance(value, type | nn.Module | Tensor):
        return False
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and any(map(is_object, value))
    if dataclasses.is_dataclass(value):
        return type(value).__module__.split(".")[0] not in _OPAQUE
    if isinstance(value, Mapping):
        return _is_graph(value) or holds_matrices(value)
    opaque = type(value).__module__.split(".")[0] in _OPAQUE
    return not opaque and any(isinstance(part, Tensor | BaseData) for part in getattr(value, "__dict__", {}).values())


def _is_graph(value: Mapping[Any, Any]) -> bool:
    """Whether a dictionary holds the attributes of a graph by name, rather than one tensor per type."""
    return all(isinstance(key, str) for key in value) and isinstance(value.get("edge_index"), Tensor)


def is_named_tuple(value: Any) -> bool:
    """Whether a value is a named tuple of a user's."""
    return isinstance(value, tuple) and hasattr(value, "_fields") and not type(value).__module__.startswith("torch.")


def kind_of(value: Any, strict: bool = False) -> Kind:
    """Return how an object is made."""
    if is_matrix(value) or holds_matrices(value):
        return Kind(dict if isinstance(value, Mapping) else Tensor, strict=strict, layout=layout_of(value))
    cls = getattr(type(value), "watched_class", type(value))
    batched = isinstance(value, Batch)
    cls = cls.__bases__[-1] if batched else cls
    hetero = (tuple(value.node_types), tuple(value.edge_types)) if isinstance(value, HeteroData) else ()
    return Kind(cls, batched, hetero, strict)


def attributes_of(value: Any) -> dict[str, Any]:
    """Return the attributes that an object stores, by name; ``x_dict`` is that of every type of a ``HeteroData``.

    Items of lists and tuples have their number as a name. A ``Batch`` has its number of graphs as ``num_graphs``. A
    sparse matrix has edges, weights and numbers of nodes.
    """
    if is_matrix(value) or holds_matrices(value):
        return parts_of(value)
    if isinstance(value, BaseData):
        found = _hetero_attributes(value) if isinstance(value, HeteroData) else dict(value._store.items())
        count = getattr(value, "_num_graphs", None) if isinstance(value, Batch) else None
        return found if count is None or "num_graphs" in found else {**found, "num_graphs": count}
    if is_named_tuple(value):
        return dict(zip(value._fields, value, strict=True))
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return {str(place): item for place, item in enumerate(value)}
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names if hasattr(value, name)} | getattr(value, "__dict__", {})
    return dict(vars(value))


def _hetero_attributes(value: HeteroData) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for store in (*value.node_stores, *value.edge_stores):
        for key, item in store.items():
            found.setdefault(f"{key}_dict", {})[store._key] = item
    return found | dict(value._global_store.items())


def attribute(value: Any, name: str) -> Any:
    """Return one attribute of an object, computed ones (``num_nodes``) too; None if it has none of that name."""
    if isinstance(value, Mapping):
        return value.get(name)
    if isinstance(value, Sequence) and not is_named_tuple(value):
        return value[int(name)] if int(name) < len(value) else None
    if isinstance(value, HeteroData) and name.endswith("_dict"):
        stores = (*value.node_stores, *value.edge_stores)
        if name == "num_nodes_dict":
            return {store._key: store.num_nodes for store in value.node_stores}
        return {store._key: store[name[:-5]] for store in stores if name[:-5] in store} or None
    try:
        return getattr(value, name)
    except (AttributeError, KeyError):
        return None


def made(kind: Kind, values: Mapping[str, Any], reads: Reads | None = None, place: Place = ()) -> Any:
    """Make an object of a kind with these attributes; ``reads`` records which of them are read, under ``place``."""
    if kind.layout:
        return matrix_of(kind.layout, values)
    if issubclass(kind.cls, BaseData):
        return _made_data(kind, values, reads, place)
    if issubclass(kind.cls, tuple) and hasattr(kind.cls, "_fields"):
        cls: Any = kind.cls
        return cls(*[values.get(name) for name in cls._fields])
    if issubclass(kind.cls, list | tuple):
        return kind.cls(values.values())
    if issubclass(kind.cls, Mapping) and not dataclasses.is_dataclass(kind.cls):
        watch = reads is not None and issubclass(kind.cls, dict)
        return (watched(kind.cls, reads, place) if watch and reads is not None else kind.cls)(values)
    if dataclasses.is_dataclass(kind.cls) and reads is None and kind.strict:
        return _constructed(kind.cls, values)
    value = _blank(kind.cls if reads is None else watched(kind.cls, reads, place))
    for name in dict.fromkeys((*_fields(kind.cls), *values)):
        object.__setattr__(value, name, values.get(name))
    return value


def _fields(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def _blank(cls: Any) -> Any:
    return cls.__new__(cls)


def _constructed(cls: type, values: Mapping[str, Any]) -> Any:
    """A dataclass, made by its own ``__init__``, which may fill in more."""
    given = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.init and field.name in values}
    value = cls(**given)
    for name in values.keys() - given.keys():
        object.__setattr__(value, name, values[name])
    return value


def _made_data(kind: Kind, values: Mapping[str, Any], reads: Reads | None, place: Place) -> Any:
    value: Any
    if kind.batched:
        value = Batch(_base_cls=kind.cls)
    else:
        value = _blank(kind.cls)
        base: Any = HeteroData if issubclass(kind.cls, HeteroData) else Data if issubclass(kind.cls, Data) else kind.cls
        base.__init__(value)
    stores = {}
    for key in (part for group in kind.types for part in group):
        stores[key] = value.get_edge_store(*key) if isinstance(key, tuple) else value.get_node_store(key)
    for name, item in values.items():
        if name == "num_graphs" and kind.batched:
            value._num_graphs = item
        elif name.endswith("_dict") and kind.types and isinstance(item, Mapping):
            for key, part in item.items():
                if key in stores:
                    stores[key][name[:-5]] = part
        else:
            value[name] = item
    if reads is not None:
        shared = value._global_store if isinstance(value, HeteroData) else value._store
        for key, store in (*stores.items(), (None, shared)):
            where = place if key is None else (*place, key)
            object.__setattr__(store, "__class__", watched(type(store), reads, where))
        object.__setattr__(value, "__class__", watched(type(value), reads, place))
    return value


def _importable(cls: type) -> type:
    """The nearest base class that a pickle in another process can import."""
    for base in cls.__mro__:
        found: Any = sys.modules.get(base.__module__)
        for part in base.__qualname__.split("."):
            found = getattr(found, part, None)
        if found is base and base is not object and base.__module__ != "__main__":
            importable: type = base
            return importable
    return types.SimpleNamespace
