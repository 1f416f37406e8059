"""Bytes of sets of ids, and of arrays by name: what log and checkpoint are made of. No pickle."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from upscale_fx.errors import InputError
from upscale_fx.running.serving.stores.base import Ids, State
from upscale_fx.running.serving.stores.files import Buffer, Files

# Kind, how many, the smallest id.
_IDS = struct.Struct("<BQq")
_TABLE = struct.Struct("<H")
_ARRAYS = struct.Struct("<8sQI")
_MAGIC = b"UFXARR01"
_ALIGNED = 64
_MOST_TEXT = 1 << 26


class DamagedError(Exception):
    """Bytes are not what was written."""


def pack_ids(ids: Ids) -> bytes:
    """Return ids, sorted and each once, as a bitmap or as differences from the smallest, whichever is shorter."""
    ids = np.unique(ids)
    if not len(ids):
        return _IDS.pack(0, 0, 0)
    first, span = int(ids[0]), int(ids[-1] - ids[0]) + 1
    if span >= 1 << 32:
        return _IDS.pack(8, len(ids), first) + ids.astype("<i8").tobytes()
    if span <= 32 * len(ids):
        bits = np.zeros(span, dtype=bool)
        bits[ids - first] = True
        return _IDS.pack(1, span, first) + np.packbits(bits).tobytes()
    return _IDS.pack(4, len(ids), first) + (ids - first).astype("<u4").tobytes()


def unpack_ids(data: memoryview) -> tuple[Ids, memoryview]:
    """Return ids and the bytes after them."""
    kind, count, first = _IDS.unpack_from(data)
    data = data[_IDS.size :]
    if kind == 0:
        return np.zeros(0, dtype=np.int64), data
    if kind == 1:
        length = -(-count // 8)
        bits = np.unpackbits(np.frombuffer(data[:length], dtype=np.uint8), count=count)
        return np.flatnonzero(bits).astype(np.int64) + first, data[length:]
    numbers = np.frombuffer(data[: kind * count], dtype=f"<{'u' if kind == 4 else 'i'}{kind}").astype(np.int64)
    return numbers + (first if kind == 4 else 0), data[kind * count :]


def pack_tables(tables: Mapping[int, Ids]) -> bytes:
    """Return ids by the number of their table."""
    filled = {number: ids for number, ids in tables.items() if len(ids)}
    parts = [_TABLE.pack(number) + pack_ids(ids) for number, ids in filled.items()]
    return _TABLE.pack(len(parts)) + b"".join(parts)


def unpack_tables(data: memoryview) -> tuple[dict[int, Ids], memoryview]:
    """Return ids by the number of their table, and the bytes after them."""
    (count,) = _TABLE.unpack_from(data)
    data = data[_TABLE.size :]
    tables: dict[int, Ids] = {}
    for _ in range(count):
        (number,) = _TABLE.unpack_from(data)
        tables[number], data = unpack_ids(data[_TABLE.size :])
    return tables, data


def pack_arrays(arrays: State, facts: Mapping[str, int]) -> list[Buffer]:
    """Return the parts of a file of arrays and whole numbers; :func:`read_arrays` reads it.

    Raises:
        InputError: an array holds Python objects.
    """
    entries: list[dict[str, object]] = []
    parts: list[Buffer] = []
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise InputError(f"array {name!r} holds Python objects; a store keeps numbers and strings of fixed length")
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        entries.append({"name": name, "dtype": array.dtype.str, "shape": array.shape, "sum": zlib.crc32(data)})
        parts += [data, bytes(-data.nbytes % _ALIGNED)]
    text = json.dumps({"arrays": entries, "facts": dict(facts)}).encode()
    text += b" " * (-(_ARRAYS.size + len(text)) % _ALIGNED)
    return [_ARRAYS.pack(_MAGIC, len(text), zlib.crc32(text)), text, *parts]


def read_arrays(files: Files, file: int) -> tuple[dict[str, NDArray[np.generic]], dict[str, int]]:
    """Return the arrays and numbers of a file.

    Raises:
        DamagedError: what was read differs from what was written.
    """
    return _arrays(lambda buffer, offset: files.read_into(file, buffer, offset))


def unpack_arrays(data: bytes) -> tuple[dict[str, NDArray[np.generic]], dict[str, int]]:
    """Return the arrays and numbers of bytes, which :func:`pack_arrays` returned.

    Raises:
        DamagedError: they differ from those.
    """

    def read_into(buffer: memoryview, offset: int) -> int:
        part = data[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    return _arrays(read_into)


def _arrays(
    read_into: Callable[[memoryview, int], int],
) -> tuple[dict[str, NDArray[np.generic]], dict[str, int]]:
    head = bytearray(_ARRAYS.size)
    if read_into(memoryview(head), 0) < len(head) or not head.startswith(_MAGIC):
        raise DamagedError("its first bytes are not those of a file of arrays")
    _, length, checksum = _ARRAYS.unpack(head)
    # A length that is damaged itself must not be taken for memory.
    text = bytearray(min(length, _MOST_TEXT))
    if read_into(memoryview(text), len(head)) < length or zlib.crc32(text) != checksum:
        raise DamagedError("the checksum of its table of contents is wrong")
    contents = json.loads(text)
    arrays: dict[str, NDArray[np.generic]] = {}
    offset = len(head) + length
    for entry in contents["arrays"]:
        array: NDArray[np.generic] = np.empty(tuple(entry["shape"]), dtype=np.dtype(entry["dtype"]))
        data = array.reshape(-1).view(np.uint8).data
        if read_into(data, offset) < data.nbytes or zlib.crc32(data) != entry["sum"]:
            raise DamagedError(f"the checksum of array {entry['name']!r} is wrong")
        arrays[entry["name"]] = array
        offset += data.nbytes + -data.nbytes % _ALIGNED
    return arrays, contents["facts"]
