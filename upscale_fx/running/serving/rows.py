"""Arrays with a row per node, which grow."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from upscale_fx.running.serving.stores.base import Flags, Ids


class NodeRows:
    """The nodes of one type: their arguments ``[N, ...]`` by path, and which of them were removed.

    Numbers are never used again: a removed node keeps its row, of zeros.
    """

    def __init__(self, inputs: dict[str, Tensor]) -> None:
        self.count = next(iter(inputs.values())).size(0)
        self._inputs = {path: value.detach().clone() for path, value in inputs.items()}
        self._alive = np.ones(self.count, dtype=bool)

    def read(self, path: str, ids: Ids) -> Tensor:
        """Return rows of an argument, ``[len(ids), ...]``."""
        return self._inputs[path].index_select(0, torch.from_numpy(ids))

    def paths(self) -> list[str]:
        """The paths of the arguments."""
        return list(self._inputs)

    def all_rows(self, path: str) -> Tensor:
        """Return an argument of all nodes, removed ones included, as a view."""
        return self._inputs[path][: self.count]

    def alive(self, ids: Ids) -> Flags:
        """Tell which nodes are there; numbers must be below ``count``."""
        return self._alive[ids]

    def living(self) -> Ids:
        """The numbers of all nodes that are there."""
        return np.flatnonzero(self._alive[: self.count]).astype(np.int64)

    def add(self, inputs: dict[str, Tensor]) -> None:
        """Append nodes; memory doubles when it is full."""
        first, self.count = self.count, self.count + next(iter(inputs.values())).size(0)
        if self.count > len(self._alive):
            more = max(self.count, 2 * len(self._alive)) - len(self._alive)
            self._alive = np.concatenate([self._alive, np.zeros(more, dtype=bool)])
            for path, value in self._inputs.items():
                self._inputs[path] = torch.cat([value, value.new_zeros((more, *value.shape[1:]))])
        for path, value in inputs.items():
            self._inputs[path][first : self.count] = value
        self._alive[first : self.count] = True

    def update(self, ids: Ids, inputs: dict[str, Tensor]) -> None:
        """Write rows of arguments."""
        for path, value in inputs.items():
            self._inputs[path][torch.from_numpy(ids)] = value

    def remove(self, ids: Ids) -> None:
        """Take nodes out: their rows become zeros."""
        self._alive[ids] = False
        for value in self._inputs.values():
            value[torch.from_numpy(ids)] = 0

    def state(self) -> tuple[Flags, dict[str, Tensor]]:
        """Flags of nodes that are there, and all arguments."""
        return self._alive[: self.count].copy(), {path: self.all_rows(path).clone() for path in self._inputs}

    @classmethod
    def from_state(cls, alive: Flags, inputs: dict[str, Tensor]) -> NodeRows:
        """Make it from what ``state`` returned."""
        rows = cls(inputs)
        rows._alive = alive.copy()
        return rows
