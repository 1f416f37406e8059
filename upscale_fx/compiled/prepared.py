"""The handle that ``upscale_fx.prepare`` returns: a graph whose structure has been computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True, eq=False, repr=False)
class PreparedGraph:
    """What a compiled model computes from a graph alone, for one graph; stands in for ``edge_index`` in its calls.

    It is a snapshot: no tensor in it shares memory with what it was made from, so that writing into ``edge_index``
    afterwards changes nothing in it. Make another one for another graph; it pickles, deep-copies and changes devices.

    Attributes:
        num_nodes: how many nodes, in the form they were given to ``prepare``; None if they were not.
        num_edges: how many edges, those of all relations together, before any self loops are added.
        arguments: names of the model's arguments it holds. Calls leave these out, but for the one it stands in for.
        device: where its tensors are.
        dtype: the floating dtype it was computed in.
        model: class name of the model it was made for.
        summary: the functions whose results it holds.
        rows: by row symbol (``"N"``, ``"E"``, ...) how many rows that axis has in this graph.
        values: by the recipe of a part of the structure half, what that part computes.
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
        """Bytes of memory its tensors take; views of one memory count once."""
        strided = [value for value in self._tensors() if value.layout == torch.strided]
        return sum({s.data_ptr(): s.nbytes() for s in (value.untyped_storage() for value in strided)}.values())

    def to(self, device: torch.device | str | int) -> PreparedGraph:
        """The same graph with its tensors on another device."""
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
