"""One change of a served graph, and its bytes in a log: texts and tensors with their lengths, nothing that runs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from upscale_fx.running.serving.freshness import NONE
from upscale_fx.running.serving.stores.base import Ids

_DTYPES: Sequence[torch.dtype] = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128,
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One change.

    Attributes:
        what: ``add_nodes``, ``remove_nodes``, ``update_nodes``, ``add_edges``, ``remove_edges`` or ``update_edges``.
        of: the symbol of nodes, or the path of edges.
        ids: of nodes.
        pairs: of edges, ``[2, k]``.
        values: rows by path of an argument; of edges by name.
    """

    what: str
    of: str
    ids: Ids = field(default_factory=lambda: NONE)
    pairs: Tensor = field(default_factory=lambda: torch.empty((2, 0), dtype=torch.int64))
    values: Mapping[str, Tensor] = field(default_factory=dict)


def encoded(step: Step) -> bytes:
    """A step as bytes: texts and tensors, each with its length."""
    stream = io.BytesIO()
    for text in (step.what, step.of):
        _write(stream, text.encode())
    for tensor in (torch.from_numpy(step.ids), step.pairs):
        _write_tensor(stream, tensor)
    stream.write(len(step.values).to_bytes(4, "little"))
    for name, tensor in step.values.items():
        _write(stream, name.encode())
        _write_tensor(stream, tensor)
    return stream.getvalue()


def decoded(stream: io.BytesIO) -> Step:
    """Return the next step whose bytes a stream has."""
    what, of = (_read(stream).decode() for _ in range(2))
    ids, pairs = (_read_tensor(stream) for _ in range(2))
    count = int.from_bytes(stream.read(4), "little")
    values = {_read(stream).decode(): _read_tensor(stream) for _ in range(count)}
    return Step(what, of, ids.numpy(), pairs, values)


def _write(stream: io.BytesIO, data: bytes) -> None:
    stream.write(len(data).to_bytes(8, "little"))
    stream.write(data)


def _read(stream: io.BytesIO) -> bytes:
    return stream.read(int.from_bytes(stream.read(8), "little"))


def _write_tensor(stream: io.BytesIO, tensor: Tensor) -> None:
    stream.write(bytes([_DTYPES.index(tensor.dtype), tensor.dim()]))
    for size in tensor.shape:
        stream.write(size.to_bytes(8, "little"))
    data = tensor.contiguous().view(-1)
    _write(stream, data.view(torch.uint8).numpy().tobytes() if data.numel() else b"")


def _read_tensor(stream: io.BytesIO) -> Tensor:
    dtype, dim = stream.read(2)
    shape = [int.from_bytes(stream.read(8), "little") for _ in range(dim)]
    data = _read(stream)
    if not data:
        return torch.empty(shape, dtype=_DTYPES[dtype])
    return torch.frombuffer(bytearray(data), dtype=_DTYPES[dtype]).view(shape)
