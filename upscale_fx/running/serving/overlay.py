"""Rows that a store does not take: kept for one answer, by table and node."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from upscale_fx.running.serving.numbers import within
from upscale_fx.running.serving.stores.base import Flags, Ids


class Overlay:
    """Rows of one answer: approximate ones, and those of a store that may not be written or is too small.

    Attributes:
        waiting: table, nodes and rows that the store takes after the answer.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[str, Ids, Tensor]] = []
        self._ids: dict[str, Ids] = {}
        self._rows: dict[str, Tensor] = {}

    def held(self, table: str, ids: Ids) -> Flags:
        """Tell which rows are here."""
        return within(ids, self._ids[table]) if table in self._ids else np.zeros(ids.size, dtype=bool)

    def read(self, table: str, ids: Ids) -> Tensor:
        """Return rows that are here."""
        return self._rows[table].index_select(0, torch.from_numpy(np.searchsorted(self._ids[table], ids)))

    def write(self, table: str, ids: Ids, rows: Tensor) -> None:
        """Add rows of nodes that are not here yet."""
        if table in self._ids:
            ids, rows = np.concatenate([self._ids[table], ids]), torch.cat([self._rows[table], rows])
        order = np.argsort(ids, kind="stable")
        self._ids[table], self._rows[table] = ids[order], rows.index_select(0, torch.from_numpy(order))
