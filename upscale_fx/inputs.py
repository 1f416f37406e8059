"""What a model's arguments look like, and small example graphs that fit them.

Tracing and every analysis run the model on two tiny graphs of different size. An axis whose size differs between the
two is a *row axis* (nodes, edges, graphs); an axis that does not is a *channel axis*. So no op needs a shape rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

#: Row counts of the example graphs. All sums that PyG forms (N + E, N + 1, ...) differ between SMALL and LARGE.
SMALL = {"N": 7, "E": 18, "B": 2}
LARGE = {"N": 11, "E": 29, "B": 3}
SINGLE = {"N": 1, "E": 0, "B": 1}
OTHER = {"N": 13, "E": 41, "B": 4}
#: Graphs on which a trace is compared with the model: the traced ones, one with self loops, a single node, a single
#: edge, and one larger than the thresholds people write.
CHECKED = (SMALL, LARGE, OTHER, SINGLE, {"N": 2, "E": 1, "B": 1}, {"N": 300, "E": 900, "B": 5})


def preserved_rng(model: nn.Module) -> AbstractContextManager[None]:
    """A context that leaves the random number generators of the CPU and of the model's devices as they were."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    return torch.random.fork_rng(devices=sorted(devices, key=str))


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put every module into one mode for a while; each gets its own back (train() itself may refuse)."""
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = training
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run example graphs without leaving a trace in the RNGs, and on one thread.

    On graphs this small, waiting for other threads costs a thousand times the work where cores are busy.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with preserved_rng(model):
            yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class TensorSpec:
    """One tensor argument: its axes (a row symbol or a width), and what its values must be.

    Attributes:
        axes: per axis a row symbol (``"N"``, ``"E"``, ``"B"`` or another name) or a static size.
        dtype: its dtype.
        role: ``"feature"``, ``"edges"`` (indices into nodes), ``"batch"`` (sorted graph ids) or ``"index"``.
        pool: for ``"index"``, rows of legal values to draw from.
        limit: for ``"edges"`` of a model without node features, how many nodes there are.
    """

    axes: tuple[int | str, ...]
    dtype: torch.dtype
    role: str = "feature"
    pool: Tensor | None = None
    limit: int | None = None

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The sizes a call must respect; None where any size goes."""
        return tuple(None if isinstance(axis, str) else axis for axis in self.axes)

    def example(self, rows: Mapping[str, int], generator: torch.Generator, loops: bool) -> Tensor:
        """A tensor of this kind with the given row counts."""
        sizes = [_row_count(rows, axis) if isinstance(axis, str) else axis for axis in self.axes]
        if self.role == "edges":
            return _edges(self.limit or rows["N"], sizes[1], generator, loops).to(self.dtype)
        if self.role == "batch":
            return (torch.arange(sizes[0]) * rows["B"] // max(sizes[0], 1)).to(self.dtype)
        if self.role == "index":
            assert self.pool is not None
            pick = torch.randint(len(self.pool), (sizes[0],), generator=generator)
            return self.pool[pick].to(self.dtype)
        if self.dtype == torch.bool:
            return torch.rand(sizes, generator=generator) < 0.5
        if len(sizes) == 1:  # weights of edges, scores of nodes: positive, as degrees and logarithms want them
            return (torch.rand(sizes, generator=generator, dtype=torch.float64) + 0.5).to(self.dtype)
        return torch.randn(sizes, generator=generator, dtype=torch.float64).to(self.dtype)


@dataclass(frozen=True)
class RowCount:
    """An integer argument that is a row count (``num_nodes``, ``batch_size``)."""

    symbol: str


@dataclass(frozen=True)
class ModelInputs:
    """The arguments of one call: TensorSpec and RowCount leaves inside the user's own tuples and dictionaries.

    Attributes:
        arguments: argument name -> nested structure of specs and constants, in signature order.
        order: names of all arguments of forward(); those not in ``arguments`` keep their default.
        device: where the example tensors live.
    """

    arguments: dict[str, Any]
    order: tuple[str, ...]
    device: torch.device

    def example(self, rows: Mapping[str, int], seed: int = 0, loops: bool = False) -> dict[str, Any]:
        """Arguments for a graph with these row counts, by name."""
        generator = torch.Generator().manual_seed(seed + sum(rows.values()))

        def build(leaf: Any) -> Any:
            if isinstance(leaf, TensorSpec):
                return leaf.example(rows, generator, loops).to(self.device)
            return _row_count(rows, leaf.symbol) if isinstance(leaf, RowCount) else leaf

        example: dict[str, Any] = pytree.tree_map(build, self.arguments)
        return example


def _row_count(rows: Mapping[str, int], symbol: str) -> int:
    if symbol in rows:
        return rows[symbol]
    # A row axis that is none of nodes, edges, graphs: a size of its own that grows with the graph.
    return rows["B"] + 1 + int(symbol.removeprefix("R"))


def _edges(nodes: int, edges: int, generator: torch.Generator, loops: bool) -> Tensor:
    source = torch.randint(nodes, (edges,), generator=generator)
    target = torch.randint(nodes, (edges,), generator=generator)
    if edges:
        target[-1] = nodes - 1  # the largest index names the number of nodes
    if nodes > 1 and not loops:
        source = torch.where(source == target, (source + 1) % nodes, source)
    return torch.stack([source, target])
