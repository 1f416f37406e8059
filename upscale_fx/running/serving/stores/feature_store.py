"""Rows in any FeatureStore of PyG. They may outlive the process there, but what is held is only known in this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import FeatureStore, TensorAttr

from upscale_fx.errors import ServerError
from upscale_fx.running.serving.stores.base import Flags, Ids, Recovered, State, TableSpec


class FeatureStoreAdapter:
    """Rows of a table are the tensor ``upscale_fx/TABLE`` of the group TABLE; give it a feature store of its own.

    Whether a store writes rows by their index or takes them for the whole tensor is up to its author; it is tried out
    when it is opened. In the second case every write puts the whole tensor.
    """

    def __init__(self, feature_store: FeatureStore) -> None:
        self._features = feature_store
        self._specs: dict[str, TableSpec] = {}
        self._held: dict[str, Flags] = {}
        self._by_index = False

    def open(self, tables: Mapping[str, TableSpec], identity: str) -> Recovered | None:
        """Make tensors for the tables.

        Raises:
            ServerError: the feature store does not take them.
        """
        self._by_index = self._takes_rows()
        for name, spec in tables.items():
            self._specs[name] = spec
            self._put(name, torch.zeros((spec.rows, *spec.shape), dtype=spec.dtype), None)
            self._held[name] = np.zeros(spec.rows, dtype=bool)
        return None

    def _takes_rows(self) -> bool:
        self._put("probe", torch.zeros(2, 1), None)
        try:
            self._put("probe", torch.ones(1, 1), np.array([1]))
            return self._get("probe", np.array([0, 1])).flatten().tolist() == [0.0, 1.0]
        # Whatever a foreign store raises: it does not take rows.
        except Exception:
            return False
        finally:
            self._features.remove_tensor(_attribute("probe", None))

    def grow(self, table: str, rows: int) -> None:
        """Let a table take ids up to ``rows``; its tensor doubles when it is full."""
        more = max(rows, 2 * len(self._held[table])) - len(self._held[table])
        if rows <= len(self._held[table]):
            return
        old = self._get(table, None)
        self._replace(table, torch.cat([old, old.new_zeros((more, *old.shape[1:]))]))
        self._held[table] = np.concatenate([self._held[table], np.zeros(more, dtype=bool)])

    def held(self, table: str, ids: Ids) -> Flags:
        """Tell which rows are held."""
        return self._held[table][ids]

    def held_ids(self, table: str) -> Ids:
        """Return the ids of all rows that are held, ascending."""
        return np.flatnonzero(self._held[table]).astype(np.int64)

    def read(self, table: str, ids: Ids) -> Tensor:
        """Return rows, ``[len(ids), *shape]``."""
        return self._get(table, ids)

    def write(self, table: str, ids: Ids, rows: Tensor) -> None:
        """Hold rows."""
        rows = rows.detach().to(self._specs[table].dtype)
        if self._by_index:
            self._put(table, rows, ids)
        else:
            whole = self._get(table, None).clone()
            whole[torch.from_numpy(ids)] = rows
            self._replace(table, whole)
        self._held[table][ids] = True

    def forget(self, table: str, ids: Ids) -> int:
        """Forget rows; return how many of them were held."""
        count = int(np.count_nonzero(self._held[table][ids]))
        self._held[table][ids] = False
        return count

    def commit(self, version: int, change: bytes, forgotten: Mapping[str, Ids]) -> None:
        """Nothing to do: a feature store keeps no changes."""

    def checkpoint(self, version: int, state: State) -> None:
        """Nothing to do: a feature store keeps no graph."""

    def refresh(self) -> Sequence[tuple[int, bytes]]:
        """Nothing to do: what other processes write is not known."""
        return []

    @property
    def durable(self) -> bool:
        """Whether changes outlive the process."""
        return False

    @property
    def writes(self) -> bool:
        """Always."""
        return True

    @property
    def log_bytes(self) -> int:
        """Nothing is kept of changes."""
        return 0

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that are held."""
        return sum(
            int(np.count_nonzero(flags)) * torch.empty(self._specs[name].shape, dtype=self._specs[name].dtype).nbytes
            for name, flags in self._held.items()
        )

    def close(self) -> None:
        """Remove the tensors."""
        for name in self._held:
            self._features.remove_tensor(_attribute(name, None))
        self._held.clear()

    def _put(self, table: str, rows: Tensor, ids: Ids | None) -> None:
        if not self._features.put_tensor(rows, _attribute(table, ids)):
            raise ServerError(f"{type(self._features).__name__} does not take the rows of {table!r}")

    def _replace(self, table: str, rows: Tensor) -> None:
        # Some stores would take a second tensor for all rows of the first.
        self._features.remove_tensor(_attribute(table, None))
        self._put(table, rows, None)

    def _get(self, table: str, ids: Ids | None) -> Tensor:
        return torch.as_tensor(self._features.get_tensor(_attribute(table, ids)))


def _attribute(table: str, ids: Ids | None) -> TensorAttr:
    return TensorAttr(table, f"upscale_fx/{table}", None if ids is None else torch.from_numpy(ids))
