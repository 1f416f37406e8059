"""The layout of a graph as part of its state: which channels are kept, and in which order.

Two prunings of one model can have parameters of the same names and shapes for other channels. So the state of a graph
whose parameters were cut, reordered or folded has one more entry, ``_extra_state``: a digest of their origins. A graph
takes only a state with its own digest, or the state would compute something else without a word.

The digest depends on the origins alone: not on the values of weights, nor on what was fused, nor on names of nodes. It
is a tensor of whole numbers from 0 to 255 in float32, because states are handled by code that knows floating-point
tensors only: they are averaged, cast to bfloat16, and written by savers without pickle. All these keep such numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upscale_fx.compiled.record import GraphRecord, Origin
from upscale_fx.errors import StateError

#: The name that ``torch.nn.Module`` gives to the extra state of a module.
KEY = "_extra_state"
#: The first number: the version of the digest.
_VERSION = 1
#: Numbers of each of the two digests: of the kept channels in any order, and of everything.
_LENGTH = 8

_WAY_OUT = (
    "Save the compiled graph itself (torch.save(compiled, path), torch.load(path, weights_only=False)); or make this "
    "graph from the same weights with the same options; or load a state of the model before pruning into that model, "
    "and prune it again"
)


def fingerprint(record: GraphRecord | None, names: Collection[str]) -> Tensor | None:
    """Return the digest ``[17]`` of a graph's layout; None if every parameter is whole and in place.

    ``names`` are the graph's parameters.
    """
    origins = {} if record is None else {name: record.origins[name] for name in sorted(record.origins) if name in names}
    reads = [] if record is None else [read for read in record.reads if read[0] in names]
    if record is None or not (origins or reads):
        return None
    kept, everything = hashlib.sha256(), hashlib.sha256()
    for name, origin in origins.items():
        parts = _ordered(origin)
        in_any_order = [np.sort(part, axis=None) for part in parts]
        if origin.name != name or any(part.size < size for part, size in zip(parts, _sizes(origin), strict=True)):
            _feed(kept, name, origin, in_any_order)
        _feed(everything, name, origin, parts)
    estimates = sorted((name, norm.kept, norm.channels) for name, norm in record.estimates.items())
    everything.update(repr((reads, estimates)).encode())
    numbers = [_VERSION, *kept.digest()[:_LENGTH], *everything.digest()[:_LENGTH]]
    return torch.tensor(numbers, dtype=torch.float32)


def _ordered(origin: Origin) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """The kept indices, axis by axis, or the flat places of all entries; nothing for a parameter in place."""
    if origin.picks is None:
        return []
    picks = origin.picks if isinstance(origin.picks, tuple) else (origin.picks,)
    return [pick.astype("<i8") for pick in picks]


def _sizes(origin: Origin) -> list[int]:
    """As many entries as each part of :func:`_ordered` would have if nothing was removed."""
    if origin.picks is None:
        return []
    return list(origin.shape) if isinstance(origin.picks, tuple) else [int(np.prod(origin.shape, dtype=np.int64))]


def _feed(digest: Any, name: str, origin: Origin, parts: list[np.ndarray[Any, np.dtype[np.int64]]]) -> None:
    digest.update(repr((name, origin.name, tuple(map(int, origin.shape)), [part.shape for part in parts])).encode())
    for part in parts:
        digest.update(part.tobytes())


def check_state(
    own: Tensor | None, record: GraphRecord | None, tensors: Mapping[str, Tensor], state: Mapping[str, Any], prefix: str
) -> None:
    """Refuse a state of another layout, before anything of it is loaded.

    Args:
        own: the digest of the graph, None if it has none.
        record: the graph's record; None for a part of a graph, which has no state of its own.
        tensors: the graph's parameters and persistent buffers.
        state: the state, also of modules around the graph.
        prefix: what the names of the graph's own entries begin with.

    Raises:
        StateError: the state is of another layout, or of an unknown one.
    """
    if record is None:
        return
    given = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    other = given.pop(KEY, None)
    if other is not None:
        check_fingerprint(own, other, record.name, _where(tensors, given))
    elif own is not None and _touches(record, tensors, given):
        raise StateError(
            f"this state does not say which channels of {record.name} it is for, and this graph keeps some of them, in "
            f"an order of its own{_where(tensors, given)}: it is a state of the model before pruning, or parts of a "
            f"state. {_WAY_OUT}. If you know that it is of this very graph, load "
            f"{{**state, '{prefix}{KEY}': compiled.get_extra_state()}}"
        )


def check_fingerprint(own: Tensor | None, other: Any, name: str, where: str = "") -> None:
    """Refuse a digest that is not a graph's own.

    Raises:
        StateError: says in what the layouts differ.
    """
    numbers = _numbers(other)
    if own is None:
        raise StateError(
            f"this state is of a graph that was pruned or folded; this graph of {name} has all channels, in place"
            f"{where}. {_WAY_OUT}"
        )
    mine = [int(number) for number in own.tolist()]
    if numbers is None or numbers[0] != mine[0]:
        raise StateError(
            f"the entry '{KEY}' of this state does not say which channels of {name} it is for: it was changed, or "
            f"written by another version of upscale_fx. {_WAY_OUT}"
        )
    if numbers == mine:
        return
    if numbers[: 1 + _LENGTH] == mine[: 1 + _LENGTH]:
        how = "the same channels are kept, but in another order, or calls of one layer share them in another way"
    else:
        how = "other channels are kept, or it is of another graph"
    raise StateError(f"this state is not of this graph of {name}: {how}{where}. {_WAY_OUT}")


def _numbers(value: Any) -> list[int] | None:
    """The whole numbers of a digest that may have been averaged or cast; None if it is none."""
    if not isinstance(value, Tensor) or value.numel() != 1 + 2 * _LENGTH or value.is_meta or value.is_complex():
        return None
    values = value.detach().cpu().double().reshape(-1)
    return [int(number) for number in values.round().tolist()] if bool(values.isfinite().all()) else None


def _touches(record: GraphRecord, tensors: Mapping[str, Tensor], given: Mapping[str, Any]) -> bool:
    """Whether a state without a digest has an entry that means something else here.

    Folds put several parameters together, so in their presence every entry counts.
    """
    loaded = [name for name in given if name in tensors]
    folded = any(origin.name.endswith("_folded") for origin in record.origins.values())
    cut = {*record.origins, *(name for name, _ in record.reads)}
    return bool(loaded) and (folded or any(name.endswith("_folded") or name in cut for name in loaded))


def _where(tensors: Mapping[str, Tensor], given: Mapping[str, Any]) -> str:
    """The first difference that names and shapes show; empty if they show none."""
    for name in sorted(given.keys() ^ tensors.keys()):
        return f" ('{name}' is only in {'the state' if name in given else 'the graph'})"
    for name, value in tensors.items():
        shape = list(getattr(given[name], "shape", value.shape))
        if shape != list(value.shape):
            return f" ('{name}' is {shape} in the state and {list(value.shape)} in the graph)"
    return ""
