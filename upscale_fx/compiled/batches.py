"""Batches: the arguments that a batch gives to a model, and several passes over one stream of batches.

A tuple, a dictionary, a tensor or a ``Data`` object is *one* batch. Every other iterable is a stream of batches: a
list, a ``NeighborLoader``, a generator. A stream that can be read only once (an iterator) is *one-shot*. Its batches
can be spooled: the first pass writes them to a file, later passes read the file, and memory holds one batch at a time.
"""

from __future__ import annotations

import copy
import inspect
import pickle
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch_geometric.data import HeteroData
from torch_geometric.data.data import BaseData

from upscale_fx.compiled.inputs import ModelInputs
from upscale_fx.compiled.module import CompiledGNN, inputs_of
from upscale_fx.compiled.objects.arguments import has_objects, taken_apart
from upscale_fx.compiled.objects.kinds import is_named_tuple, is_object
from upscale_fx.compiled.signatures import names_object, signature_of
from upscale_fx.errors import InputError

Transform = Callable[[Any], Any]
#: Attributes that ``Data`` computes when they are not stored.
_COUNTS = ("num_nodes", "num_edges", "num_graphs", "batch_size")


class Batches:
    """A stream of batches; iterating gives one at a time.

    Args:
        source: one batch, or an iterable of batches.
        replay: spool a one-shot stream to a temporary file, so that it can be read again. Each batch is written when
            it is first read, and later read from the file; the file is deleted with this object.

    Raises:
        InputError: ``source`` is neither a batch nor an iterable. While iterating: there are no batches, a one-shot
            stream without a spool is read again, or a batch cannot be written.
    """

    def __init__(self, source: Any, *, replay: bool = False) -> None:
        if is_batch(source):
            source = [source]
        if isinstance(source, str | bytes | nn.Module) or not isinstance(source, Iterable):
            raise InputError(
                f"expected batches, got a {type(source).__name__}; pass one as a tuple (x, edge_index), a dictionary "
                f"or a Data object, several as a list or a loader of these"
            )
        self.one_shot = isinstance(source, Iterator)
        self._source: Iterable[Any] = source
        self._spool = _Spool(source) if isinstance(source, Iterator) and replay else None
        self._passes = 0

    @classmethod
    def replayed(cls, source: Any) -> Batches | None:
        """Return the stream in a form that allows any number of passes; None for None."""
        return source if source is None or isinstance(source, cls) else cls(source, replay=True)

    @property
    def length(self) -> int | None:
        """Number of batches in a pass; None if unknown."""
        if self._spool is not None:
            return self._spool.length
        try:
            return len(self._source)  # type: ignore[arg-type]
        except TypeError:
            return None

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("this stream of batches does not know how many there are")
        return self.length

    def __iter__(self) -> Iterator[Any]:
        if self.one_shot and self._spool is None and self._passes:
            raise InputError(
                f"a {type(self._source).__name__} gives its batches once, but they are needed again; pass a list of "
                f"batches or a loader"
            )
        self._passes += 1
        empty = True
        for batch in self._source if self._spool is None else self._spool:
            empty = False
            yield batch
        if empty:
            where = f"a {type(self._source).__name__} gave no batches"
            again = f" in pass {self._passes}" if self._passes > 1 else ""
            raise InputError(f"{where}{again}; pass a list of batches, or a loader that gives some in every pass")


def is_batch(value: Any) -> bool:
    """Whether a value is one batch, rather than a stream of them."""
    return isinstance(value, tuple | Mapping | Tensor) or (is_object(value) and not isinstance(value, list))


class _Spool:
    """The batches an iterator has given, one pickle after another in a file, followed by those still to come."""

    def __init__(self, source: Iterator[Any]) -> None:
        self.source: Iterator[Any] = source
        self.length: int | None = None
        self.count = 0
        self.end = 0
        self.file: IO[bytes] = tempfile.TemporaryFile(prefix="upscale_fx_batches_")  # noqa: SIM115 (lives as long)
        weakref.finalize(self, self.file.close)

    def __iter__(self) -> Iterator[Any]:
        number = position = 0
        while True:
            if number < self.count:
                self.file.seek(position)
                batch = pickle.load(self.file)
                position = self.file.tell()
            else:
                try:
                    batch = next(self.source)
                except StopIteration:
                    self.length = self.count
                    return
                self._write(batch)
                position = self.end
            number += 1
            yield batch

    def _write(self, batch: Any) -> None:
        self.file.seek(self.end)
        try:
            pickle.dump(_compact(batch), self.file, protocol=pickle.HIGHEST_PROTOCOL)
        except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
            raise InputError(
                f"batches are read several times, and a {type(batch).__name__} cannot be stored for that "
                f"({error}); pass a list of batches or a loader instead of a one-shot iterator"
            ) from error
        self.end = self.file.tell()
        self.count += 1


def _compact(batch: Any) -> Any:
    """Return the batch with views copied, since pickling a view would store the whole memory behind it."""
    return pytree.tree_map(_owned, batch)


def _owned(leaf: Any) -> Any:
    if isinstance(leaf, BaseData):
        return copy.copy(leaf).apply(_owned)
    if type(leaf) is not Tensor or leaf.layout != torch.strided:
        return leaf
    is_part = leaf.untyped_storage().nbytes() > leaf.numel() * leaf.element_size()
    return leaf.detach().clone().requires_grad_(leaf.requires_grad) if is_part else leaf


def arguments_of(
    batch: Any, model: nn.Module, transform: Transform | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments of ``model.forward`` that a batch gives.

    A tuple (in a stream also a list) gives positional arguments, a dictionary keyword arguments, a tensor the only
    argument. A ``Data`` or ``HeteroData`` object gives the attributes that ``forward()`` names; if ``forward()`` has
    only one argument and the object has no such attribute, the argument is the object itself, as is that of a
    dataclass, a named tuple or a namespace. A graph gets the attributes that it was traced with.

    Args:
        batch: one batch.
        model: the model to call, or its graph.
        transform: a function of the batch; its result replaces the batch.

    Raises:
        InputError: an argument is missing or unknown. (A graph itself refuses arguments it was traced without.)
    """
    value = batch if transform is None else transform(batch)
    signature = signature_of(model)
    if isinstance(model, CompiledGNN) and inputs_of(model).objects:
        if (apart := _taken_apart(value, inputs_of(model))) is not None:
            return apart
    elif isinstance(value, BaseData):
        return _attributes_of(value, model, signature)
    elif _is_only_argument(value, signature):
        return ((value,), {}) if not isinstance(value, list) else (tuple(value), {})
    if not isinstance(value, tuple | list | Mapping | Tensor):
        raise InputError(
            f"a batch is a tuple, a dictionary or a Data object, got a {type(value).__name__}; pass transform=, a "
            f"function that makes a tuple or a dictionary of arguments from it"
        )
    args = () if isinstance(value, Mapping) else (value,) if isinstance(value, Tensor) else tuple(value)
    kwargs = dict(value) if isinstance(value, Mapping) else {}
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        what = f"a dictionary of {', '.join(map(str, kwargs))}" if kwargs else f"{len(args)} positional arguments"
        raise InputError(
            f"a batch does not fit {type(model).__name__}.forward{signature}: {error}; it is {what}. Pass transform=, "
            f"a function from a batch to the tuple or dictionary of arguments. (A list is a stream of batches: for one "
            f"batch pass a tuple.)"
        ) from None
    if any(isinstance(leaf, np.ndarray) for leaf in pytree.tree_leaves((args, kwargs))):
        raise InputError("a batch holds NumPy arrays: pass tensors, such as torch.from_numpy gives")
    return args, kwargs


def _is_only_argument(value: Any, signature: inspect.Signature) -> bool:
    """Whether a batch is itself the one argument, an object; ``(data,)`` is a tuple of arguments, as of tensors."""
    is_argument = is_object(value) or is_named_tuple(value)
    return is_argument and len(signature.parameters) == 1 and not (type(value) is tuple and len(value) == 1)


def _taken_apart(value: Any, inputs: ModelInputs) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return the arguments of a graph whose model takes objects; None if the batch holds the graph's own arguments."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    # Where matrices are the only objects, a batch holds arguments by name, as for a model of tensors.
    only_matrices = all(parts.kind.layout for parts in inputs.objects.values())
    if isinstance(value, Mapping) and (only_matrices or not is_object(value)):
        kwargs = dict(value)
    elif isinstance(value, BaseData) and only_matrices:
        kwargs = _named_in(value, inputs)
    elif is_object(value) and (is_named_tuple(value) or not isinstance(value, tuple | list)):
        args = (value,)
        if isinstance(value, BaseData):  # arguments besides the object may be attributes of it
            others = [name for name in inputs.call[1:] if name not in inputs.objects and inputs.arguments.get(name)]
            kwargs = {name: value[name] for name in others if name in value}
    elif isinstance(value, tuple | list):
        args = tuple(value)
    else:
        return None
    if not has_objects(args, kwargs, inputs.objects):
        return None
    return (), taken_apart(inputs.objects, inputs.call, inputs.arguments, args, kwargs)[0]


def _named_in(data: BaseData, inputs: ModelInputs) -> dict[str, Any]:
    """Return the arguments that a Data object has; its ``edge_index`` for a sparse matrix that it lacks."""
    found = {name: data[name] for name in inputs.call if name in data}
    if "edge_index" in data:
        found |= dict.fromkeys(inputs.objects.keys() - found.keys(), data["edge_index"])
    return found


def _attributes_of(
    data: BaseData, model: nn.Module, signature: inspect.Signature
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the attributes of a Data object that forward() names, as positional-only and keyword arguments."""
    named = {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    values = {name: value for name in named if (value := _attribute(data, name, named[name])) is not None}
    if len(named) == 1 and (not values or "batch" in values):
        return (data,), {}
    missing = [name for name, parameter in named.items() if parameter.default is parameter.empty and name not in values]
    if len(missing) == 1 and missing[0] == next(iter(named)) and names_object(named[missing[0]]):
        values[missing.pop()] = data
    if isinstance(model, CompiledGNN):
        traced = inputs_of(model).arguments  # a graph needs all arguments it was traced with, defaults included
        missing += [name for name, spec in traced.items() if spec is not None and name not in {*values, *missing}]
    if missing:
        raise InputError(
            f"{type(model).__name__}.forward{signature} needs '{missing[0]}', which the {type(data).__name__} batch "
            f"does not have (it has {', '.join(map(str, data.keys()))}); pass transform=, as in "
            f"transform=lambda batch: ({', '.join(f'batch.{name}' for name in named)})"
        )
    first = [name for name, parameter in named.items() if parameter.kind is parameter.POSITIONAL_ONLY]
    return tuple(values.pop(name) for name in first if name in values), values


def _attribute(data: BaseData, name: str, parameter: inspect.Parameter) -> Any:
    """Return an attribute of a Data object, or None; counts only if forward() requires them."""
    if isinstance(data, HeteroData) and any(name in store for store in (*data.node_stores, *data.edge_stores)):
        return data.collect(name)
    if name in data:
        return data[name]
    required = parameter.default is parameter.empty
    if name.endswith("_dict") or (required and name in _COUNTS):
        try:
            return getattr(data, name)
        except (AttributeError, KeyError):
            return None
    return None
