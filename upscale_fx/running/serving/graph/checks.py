"""Arguments of a table of edges, checked and turned into arrays. Nothing here keeps the memory of the caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from upscale_fx.errors import InputError
from upscale_fx.running.serving.stores.base import Ids

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
#: Node numbers and slots are kept as int32.
LIMIT = 2**31 - 1


@dataclass(frozen=True)
class ValueSpec:
    """The values of one name: ``[E, *shape]`` of one dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def size(count: int, name: str) -> int:
    """Return a number of nodes.

    Raises:
        InputError: it is negative, or larger than int32 can number.
    """
    if not 0 <= count <= LIMIT:
        raise InputError(f"{name} is {count}: a server numbers between 0 and {LIMIT} nodes of one type")
    return int(count)


def pairs(edge_index: Tensor) -> tuple[Ids, Ids]:
    """Return sources and targets of ``edge_index [2, E]``, whatever numbers they are.

    Raises:
        InputError: this is no integer tensor ``[2, E]``.
    """
    if not isinstance(edge_index, Tensor):
        raise InputError(f"edge_index must be a tensor [2, E], not {type(edge_index).__name__}")
    if edge_index.dim() != 2 or edge_index.shape[0] != 2 or edge_index.dtype not in _INTEGERS:
        raise InputError(f"edge_index must be an int64 tensor [2, E], not {_described(edge_index)}")
    sources, targets = edge_index.detach().to("cpu", torch.int64).contiguous().numpy()
    return sources, targets


def ends(edge_index: Tensor, num_sources: int, num_targets: int) -> tuple[Ids, Ids]:
    """Return sources and targets of ``edge_index [2, E]``.

    Raises:
        InputError: this is no integer tensor ``[2, E]``, or an end does not exist.
    """
    found = pairs(edge_index)
    for end, bound in enumerate((num_sources, num_targets)):
        position = first_outside(found[end], bound)
        if position is not None:
            side = ("source", "target")[end]
            there = f"{side} nodes are numbered from 0 to {bound - 1}" if bound else f"there are no {side} nodes"
            raise InputError(f"edge_index[{end}, {position}] is {found[end][position]}: {there}")
    return found


def numbers(ids: NDArray[np.generic], what: str) -> Ids:
    """Return numbers as a new or the same flat int64 array of the one kind that loops are compiled for.

    Raises:
        InputError: this is no flat array of integers.
    """
    array = np.asarray(ids)
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{what} must be a flat array of integers, not {array.dtype} {list(array.shape)}")
    # Read from a log, an array may be read-only, for which loops would be compiled once more, or not aligned.
    return np.require(array, np.int64, ["C", "A", "W"])


def nodes(ids: Ids, sizes: tuple[int, int], end: int) -> Ids:
    """Return numbers of sources (end 0) or targets (end 1); ``sizes`` are how many there are of both.

    Raises:
        InputError: this is no flat array of integers, a node does not exist, or ``end`` is neither 0 nor 1.
    """
    if end not in (0, 1):
        raise InputError(f"end is {end!r}: 0 means sources, 1 means targets")
    found = numbers(ids, "nodes")
    position = first_outside(found, sizes[end])
    if position is not None:
        side = ("source", "target")[end]
        raise InputError(f"nodes[{position}] is {found[position]}: there are {sizes[end]} {side} nodes")
    return found


def first_outside(numbers: Ids, bound: int) -> int | None:
    """Return the first position of a number that is not in ``[0, bound)``, None if all are."""
    if numbers.size == 0 or (numbers.min() >= 0 and numbers.max() < bound):
        return None
    return int(np.flatnonzero((numbers < 0) | (numbers >= bound))[0])


def specs(values: Mapping[str, Tensor], count: int) -> dict[str, ValueSpec]:
    """Return what the values of ``count`` edges are.

    Raises:
        InputError: something is no tensor, or does not have a row per edge.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{name} must be a tensor with one row per edge, not {type(value).__name__}")
        if value.dim() == 0 or value.shape[0] != count:
            raise InputError(f"{name} must have one row for each of {count} edges, not {_described(value)}")
    return {name: ValueSpec(tuple(value.shape[1:]), value.dtype) for name, value in values.items()}


def values(given: Mapping[str, Tensor], count: int, stored: Mapping[str, ValueSpec], *, some: bool) -> None:
    """Check that values fit those that are stored; ``some``: names may be left out.

    Raises:
        InputError: a name is missing or unknown, or shape or dtype differ from what is stored.
    """
    unknown = [name for name in given if name not in stored]
    if unknown:
        names = ", ".join(stored) or "none"
        raise InputError(f"edges have no values called {unknown[0]}; there are: {names}")
    missing = [name for name in stored if name not in given]
    if missing and not some:
        raise InputError(f"{missing[0]} is missing: every new edge needs a value of it")
    for name, spec in specs(given, count).items():
        if spec != stored[name]:
            expected = f"{_name(stored[name].dtype)} {[count, *stored[name].shape]}"
            raise InputError(f"{name} must be {expected}, not {_described(given[name])}")


def _described(value: Tensor) -> str:
    return f"{_name(value.dtype)} {list(value.shape)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
