"""Rows of fewer bytes: bfloat16, or one byte per number with a scale and an offset per row. Approximate."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from upscale_fx.errors import InputError, ServerError
from upscale_fx.running.serving.stores.base import Ids, Recovered, Store, TableSpec
from upscale_fx.running.serving.stores.wrapper import WrappedStore, row_bytes

# Scale and offset, float32 each.
_FACTORS = 8
_LEVELS = 255


class ReducedStore(WrappedStore):
    """Rows of floating point are kept in ``dtype`` below; others, and those it would not make smaller, as they are.

    Attributes:
        largest_error: the largest absolute difference between a number that was written and the one kept for it.
    """

    def __init__(self, store: Store, dtype: torch.dtype) -> None:
        super().__init__(store)
        self._dtype = dtype
        self._specs: dict[str, TableSpec] = {}
        self.largest_error = 0.0

    def _below(self, spec: TableSpec) -> TableSpec:
        numbers = math.prod(spec.shape)
        if self._dtype == torch.bfloat16:
            smaller = TableSpec(spec.shape, torch.bfloat16, spec.rows)
        else:
            smaller = TableSpec((_FACTORS + numbers,), torch.uint8, spec.rows)
        fewer = math.prod(smaller.shape) * smaller.dtype.itemsize < numbers * spec.dtype.itemsize
        return smaller if spec.dtype.is_floating_point and fewer else spec

    def row_bytes(self, spec: TableSpec) -> int:
        """Return the bytes that one row of such a table takes."""
        return row_bytes(self._store, self._below(spec))

    def open(self, tables: Mapping[str, TableSpec], identity: str) -> Recovered | None:
        """Open the store below for rows of fewer bytes."""
        self._specs = dict(tables)
        below = {name: self._below(spec) for name, spec in tables.items()}
        return self._store.open(below, f"{identity}, rows kept as {self._dtype}")

    def read(self, table: str, ids: Ids) -> Tensor:
        """Return rows in the dtype of the table, ``[len(ids), *shape]``."""
        return self._decode(self._store.read(table, ids), self._specs[table])

    def write(self, table: str, ids: Ids, rows: Tensor) -> None:
        """Hold rows; remember the largest error.

        Raises:
            ServerError: a row that is to be kept in bytes has an infinite number, or none, or too wide a range.
        """
        spec = self._specs[table]
        rows = rows.detach().to(spec.dtype)
        kept = self._encode(rows, spec)
        if kept is not rows and rows.numel():
            error = (self._decode(kept, spec).double() - rows.double()).abs()
            # An infinite number that is kept as it is has no error.
            self.largest_error = max(self.largest_error, float(error.nan_to_num(nan=0.0).max()))
        self._store.write(table, ids, kept)

    def _encode(self, rows: Tensor, spec: TableSpec) -> Tensor:
        below = self._below(spec)
        if below is spec:
            return rows
        if below.dtype == torch.bfloat16:
            return rows.to(torch.bfloat16)
        flat = rows.reshape(len(rows), -1).float()
        offset = flat.amin(dim=1, keepdim=True)
        scale = (flat.amax(dim=1, keepdim=True) - offset) / _LEVELS
        if not bool(torch.isfinite(scale).all()):
            raise ServerError("a row has an infinite number, or none, and cannot be kept in bytes: choose bfloat16")
        levels = ((flat - offset) / torch.where(scale > 0, scale, 1)).round().clamp(0, _LEVELS)
        factors = torch.cat([scale, offset], dim=1).contiguous().view(torch.uint8)
        return torch.cat([factors, levels.to(torch.uint8)], dim=1)

    def _decode(self, kept: Tensor, spec: TableSpec) -> Tensor:
        below = self._below(spec)
        if below is spec:
            return kept
        if below.dtype == torch.bfloat16:
            return kept.to(spec.dtype)
        factors = kept[:, :_FACTORS].contiguous().view(torch.float32)
        rows = kept[:, _FACTORS:] * factors[:, :1] + factors[:, 1:]
        return rows.to(spec.dtype).reshape(len(kept), *spec.shape)


def reduced(store: Store, dtype: torch.dtype) -> ReducedStore:
    """Return a store that keeps rows in fewer bytes in ``store``.

    Args:
        store: where the rows are kept.
        dtype: ``torch.bfloat16``, or ``torch.int8`` for one byte per number and eight per row: each number is the
            nearest of 256 between the smallest and the largest of its row.

    Raises:
        InputError: it is another dtype.
    """
    if dtype not in (torch.bfloat16, torch.int8):
        raise InputError(f"dtype must be torch.bfloat16 or torch.int8, not {dtype!r}")
    return ReducedStore(store, dtype)
