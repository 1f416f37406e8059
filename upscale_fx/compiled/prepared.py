"""The handle that ``upscale_fx.prepare`` returns: the values of the structure half for one graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True, eq=False, repr=False)
class PreparedGraph:
    """All values that a compiled model computes from one graph's structure alone; replaces ``edge_index`` in its calls.

    It is a snapshot: its tensors share no memory with the arguments of ``prepare``, so later writes into ``edge_index``
    do not change it. Another graph needs another handle. It can be pickled, deep-copied and moved between devices.

    Attributes:
        num_nodes: number of nodes, in the form they were given to ``prepare``; None if they were not.
        num_edges: number of edges of all relations together, before any self loops are added.
        arguments: names of the model's arguments it holds; a call passes the handle for one and leaves out the others.
        device: the device of its tensors.
        dtype: the floating dtype it was computed in.
        model: class name of the model it was made for.
        summary: the functions whose results it holds.
        rows: row symbol (``"N"``, ``"E"``, ...) -> number of rows in this graph.
        values: recipe of a part of the structure half -> values of that part.
    """

    num_nodes: Any
    num_edges: int
    arguments: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype | None
    model: str
    summary: str
    rows: Mapping[str, int]
    values: Mapping[str, tuple[Any, ...]]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors; memory that several tensors share counts once."""
        strided = [value for value in self._tensors() if value.layout == torch.strided]
        return sum({s.data_ptr(): s.nbytes() for s in (value.untyped_storage() for value in strided)}.values())

    def to(self, device: torch.device | str | int) -> PreparedGraph:
        """Return the handle with its tensors on another device."""
        moved = pytree.tree_map_only(Tensor, lambda value: value.to(device), dict(self.values))
        return replace(self, device=torch.empty(0, device=device).device, values=moved)

    def __repr__(self) -> str:
        stored = ", ".join(f"{str(v.dtype).removeprefix('torch.')} {list(v.shape)}" for v in self._tensors())
        return (
            f"PreparedGraph(nodes={self.num_nodes}, edges={self.num_edges}, of {', '.join(self.arguments)} for "
            f"{self.model}: {self.summary}; {stored}; {self.nbytes:,} bytes on {self.device})"
        )

    def _tensors(self) -> list[Tensor]:
        return [leaf for leaf in pytree.tree_leaves(dict(self.values)) if isinstance(leaf, Tensor)]
