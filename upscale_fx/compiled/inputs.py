"""Descriptions of a model's arguments, and small example graphs made from them.

Tracing and every analysis run the model on two tiny graphs of different size. An axis whose size differs between the
two is a *row axis* (nodes, edges, graphs); every other axis is a *channel axis*. So no operation needs a shape rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from upscale_fx.compiled.edges.forms import EVEN, HALVES, PAIRS, edges_in_form
from upscale_fx.compiled.edges.made import random_edges, regular_edges
from upscale_fx.compiled.objects.arguments import ObjectParts, built
from upscale_fx.compiled.objects.matrices import random_entries

#: Row counts of the example graphs. SMALL and LARGE differ in all sums that PyG forms (N + E, N + 1, ...) and in the
#: widths of padded batches: the most nodes of a graph and the most edges of a node.
SMALL = {"N": 7, "E": 18, "B": 2}
LARGE = {"N": 16, "E": 61, "B": 3}
#: Nodes and edges that example graphs get in addition for models that refuse small ones (the 20 nearest neighbours).
GROWTHS = (34, 130)
SINGLE = {"N": 1, "E": 0, "B": 1}
OTHER = {"N": 13, "E": 41, "B": 4}
#: Graphs on which a trace is compared with the model: the traced ones, one with self loops, a single node, a single
#: edge, and one larger than the thresholds people write.
CHECKED = (SMALL, LARGE, OTHER, SINGLE, {"N": 2, "E": 1, "B": 1}, {"N": 300, "E": 900, "B": 5})


@dataclass(frozen=True)
class TensorSpec:
    """One tensor argument: its axes, its dtype and its legal values.

    Attributes:
        axes: per axis, a row symbol (``"N"``, ``"E"``, ``"B"`` or another name) or a static size.
        dtype: its dtype.
        role: ``"feature"``, ``"edges"`` (indices into nodes), ``"batch"`` (sorted graph ids), ``"ptr"`` (the first node
            of each graph) or ``"index"``.
        pool: for ``"index"``, rows of legal values to draw from; for edges and graph numbers, the example, if small.
        into: for ``"index"``, the row symbols that its values may number: they stay below the fewest of these rows.
            Empty for categories, whose values are those of the pool.
        sizes: the sizes of the axes in the user's example; empty if unknown.
        told: whether the user said what the integers number.
        layout: of ``"edges"`` that are the entries of a sparse matrix, how it stores them.
        form: of ``"edges"``, how they are stored; see ``edges.forms``.
        forms: the forms that the edges of the example have.
        as_given: whether all values are those of the example, which are the pool.
        limit: for ``"edges"`` of a model without node features, the number of nodes.
        ends: for ``"edges"``, the row symbols of the nodes that the first and the second row of the index name.
        ordered: whether edges are sorted by target, or an index by value; some layers require this.
    """

    axes: tuple[int | str, ...]
    dtype: torch.dtype
    role: str = "feature"
    pool: Tensor | None = None
    limit: int | None = None
    ends: tuple[str, str] = ("N", "N")
    ordered: bool = False
    into: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    told: bool = False
    layout: str = ""
    form: str = ""
    forms: tuple[str, ...] = ()
    as_given: bool = False

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The sizes that a call must have; None where any size is allowed."""
        return tuple(None if isinstance(axis, str) else axis for axis in self.axes)

    def example(self, rows: Mapping[str, int], generator: torch.Generator, loops: bool) -> Tensor:
        """Make an example tensor with these row counts; ``loops`` allows self loops in edges."""
        if self.as_given:
            assert self.pool is not None
            return self.pool.to(self.dtype)
        sizes = [row_count(rows, axis) if isinstance(axis, str) else axis for axis in self.axes]
        if self.role == "edges":
            ends = [self.limit or row_count(rows, end) for end in self.ends]
            if str(self.axes[1]).startswith("K"):
                return regular_edges(ends[0], int(str(self.axes[1])[1:]), generator).to(self.dtype)
            loops = loops or self.ends[0] != self.ends[1]
            if self.layout:
                return random_entries(ends[0], ends[1], sizes[1], generator, loops, self.layout).to(self.dtype)
            edges = random_edges(ends[0], ends[1], sizes[1], generator, loops)
            if self.form and self.ends[0] == self.ends[1]:
                edges = edges_in_form(self.form, edges, ends[0], ends[1], generator)
            kept = not self.ordered or self.form in (PAIRS, HALVES)
            return (edges if kept else edges[:, edges[1].argsort(stable=True)]).to(self.dtype)
        if self.role == "batch":
            return (torch.arange(sizes[0]) * rows["B"] // max(sizes[0], 1)).to(self.dtype)
        if self.role == "ptr":
            return (torch.arange(sizes[0]) * rows["N"] // (sizes[0] - 1)).to(self.dtype)
        if self.role == "index":
            return self._index(sizes, rows, generator).to(self.dtype)
        if self.dtype == torch.bool:
            return torch.rand(sizes, generator=generator) < 0.5
        if len(sizes) == 1:  # edge weights, node scores: positive, for square roots of degrees and logarithms
            return (torch.rand(sizes, generator=generator, dtype=torch.float64) + 0.5).to(self.dtype)
        return torch.randn(sizes, generator=generator, dtype=torch.float64).to(self.dtype)

    def _index(self, sizes: list[int], rows: Mapping[str, int], generator: torch.Generator) -> Tensor:
        assert self.pool is not None
        drawn = self.pool
        if list(drawn.shape[1:]) != sizes[1:]:  # further row axes
            drawn = drawn.flatten()
        pick = torch.randint(len(drawn), sizes if drawn.dim() < self.pool.dim() else (sizes[0],), generator=generator)
        values = drawn[pick.sort(0).values if self.ordered else pick]
        if self.into:
            count = min(row_count(rows, symbol) for symbol in self.into)
            values = _inside(values, self.pool, count, self.told, generator)
        return values.sort(0).values if self.ordered else values


@dataclass(frozen=True)
class RowCount:
    """An integer argument that is a row count (``num_nodes``); ``size`` is that of the example, 0 if unknown."""

    symbol: str
    size: int = field(default=0, compare=False)


@dataclass(frozen=True)
class ModelInputs:
    """The arguments of one call: TensorSpec and RowCount leaves inside the user's tuples and dictionaries.

    Attributes:
        arguments: argument name -> nested structure of specs and constants, in signature order.
        order: names of all arguments of forward(); those not in ``arguments`` keep their default.
        device: the device of the example tensors.
        positional: names of the arguments that ``*args`` of forward() takes, and of those before them.
        nodes: number of nodes of the user's example, 0 if unknown.
        degree: number of edges of every node of the example, 0 if nodes differ or edges are not sorted by target.
        growth: nodes and edges that example graphs have in addition; see :data:`GROWTHS`.
        ascending: kinds of nodes from the fewest to the most, if examples must have them in this order.
        fixed: the kinds of rows of which every graph has as many as the example, and this number.
        why: why a model refused graphs with other numbers of these rows, as text.
        held: axes that seemed to be rows and have the size of the example, as text.
        stated: kinds of rows that the user named; they are never fixed or merged.
        objects: arguments of forward() that are objects; ``arguments`` holds their attributes by their own names.
        call: names of the arguments of forward(), objects included; empty if there are none.
        chosen: whether the model itself says how many rows are selected (8 nodes per graph); see ``selections``.
        tables: names of parameters whose rows are nodes; see ``tracing.modules.tables``.
        unread: attributes of these objects that no output needs: the model's own call has them, the graph's has not.
    """

    arguments: dict[str, Any]
    order: tuple[str, ...]
    device: torch.device
    positional: tuple[str, ...] = ()
    nodes: int = 0
    degree: int = 0
    growth: int = 0
    ascending: tuple[str, ...] = ()
    fixed: tuple[tuple[str, int], ...] = ()
    why: str = ""
    held: tuple[str, ...] = ()
    stated: tuple[str, ...] = ()
    objects: Mapping[str, ObjectParts] = field(default_factory=dict)
    call: tuple[str, ...] = ()
    unread: Mapping[str, Any] = field(default_factory=dict)
    chosen: bool = False
    tables: frozenset[str] = frozenset()

    @property
    def fixed_text(self) -> str:
        """The numbers of rows that every graph must have, such as ``60 nodes``; empty if there are none."""
        kinds = {"N": "nodes", "E": "edges", "B": "graphs"}
        return " and ".join(f"{size} {kinds.get(symbol, f'rows ({symbol})')}" for symbol, size in self.fixed)

    def symbols(self) -> dict[str, int]:
        """Return the row symbols of all arguments, with their sizes in the user's example (0 if unknown)."""
        found: dict[str, int] = {}
        for leaf in pytree.tree_leaves(self.all_arguments()):
            if isinstance(leaf, TensorSpec):
                for axis, size in zip(leaf.axes, leaf.sizes or [0] * len(leaf.axes), strict=True):
                    if isinstance(axis, str):
                        found[axis] = found.get(axis) or size
        for leaf in pytree.tree_leaves(self.all_arguments()):
            if isinstance(leaf, RowCount):
                found[leaf.symbol] = found.get(leaf.symbol) or leaf.size
        return found

    def counts(self, rows: Mapping[str, int]) -> dict[str, int]:
        """Return the rows of every symbol in an example graph of ``rows`` nodes, edges and graphs."""
        grown = {"N": rows["N"] + self.growth, "E": rows["E"] + self.growth, "B": rows["B"]}
        named = (
            *self.symbols(),
            *(end for leaf in pytree.tree_leaves(self.all_arguments()) for end in _named_rows(leaf)),
        )
        counts = {symbol: row_count(grown, symbol) + (self.growth if symbol[0] == "R" else 0) for symbol in named}
        for leaf in pytree.tree_leaves(self.all_arguments()):
            if isinstance(leaf, TensorSpec) and leaf.form in EVEN and str(leaf.axes[1])[0] == "E":
                counts[str(leaf.axes[1])] += counts[str(leaf.axes[1])] % 2
        ranked = sorted(row_count(grown, symbol) for symbol in self.ascending)
        return {**grown, **counts, **dict(zip(self.ascending, ranked, strict=True)), **dict(self.fixed)}

    def map_leaves(self, function: Callable[[Any], Any], **changes: Any) -> ModelInputs:
        """Return the arguments with a function applied to every description, and other fields changed."""
        arguments, unread = pytree.tree_map(function, self.arguments), pytree.tree_map(function, dict(self.unread))
        return replace(self, arguments=arguments, unread=unread, **changes)

    def bind(self, arguments: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return positional and keyword arguments for the model's own forward(); objects are put together."""
        arguments = built(self.objects, arguments) if self.objects else arguments
        rest = {name: value for name, value in arguments.items() if name not in self.positional}
        return [arguments[name] for name in self.positional], rest

    def example(self, rows: Mapping[str, int], seed: int = 0, loops: bool = False) -> dict[str, Any]:
        """Make example arguments with these row counts, by name."""
        generator = torch.Generator().manual_seed(seed + sum(rows.values()))
        counts = self.counts(rows)

        def build(leaf: Any) -> Any:
            if isinstance(leaf, TensorSpec):
                return leaf.example(counts, generator, loops).to(self.device)
            return row_count(counts, leaf.symbol) if isinstance(leaf, RowCount) else leaf

        example: dict[str, Any] = pytree.tree_map(build, self.all_arguments())
        return example

    def whole(self) -> ModelInputs:
        """Return the description with the attributes that the graph does not read, to call the model itself."""
        if not self.objects:
            return self
        names = [name for parts in self.objects.values() for name in parts.names() if name not in self.order]
        return replace(self, arguments=self.all_arguments(), order=(*self.order, *names), unread={})

    def drawn(self) -> ModelInputs:
        """Return the description without integers that are those of the example: they are drawn."""
        given = any(leaf.as_given for leaf in pytree.tree_leaves(self.all_arguments()) if isinstance(leaf, TensorSpec))
        return self.map_leaves(_drawn) if given else self

    def all_arguments(self) -> dict[str, Any]:
        """Return the descriptions of all arguments, those that the graph does not read too."""
        merged = dict(self.arguments)
        for name, spec in self.unread.items():
            merged[name] = {**merged[name], **spec} if isinstance(merged.get(name), dict) else spec
        return merged


def row_count(rows: Mapping[str, int], symbol: str) -> int:
    """Return the rows of a symbol: nodes, edges, graphs, or further types of nodes and edges (``N1``, ``E2``, ...)."""
    if symbol in rows:
        return rows[symbol]
    kind, number = symbol[0], int(symbol[1:])
    if kind in "NE":
        if number == 1 and kind == "N":  # fewer targets than sources, as in mini-batches
            return max(rows["N"] - 2, 1)
        return rows[kind] + (2 if kind == "N" else 3) * number if rows[kind] > 1 else rows[kind]
    if kind == "K":
        return rows["N"] * number
    if kind == "P":
        return rows["B"] + 1
    # Any other row axis: its size differs from those above and grows with the graph.
    return rows["B"] + 1 + number


def _drawn(leaf: Any) -> Any:
    return replace(leaf, as_given=False) if isinstance(leaf, TensorSpec) else leaf


def _named_rows(leaf: Any) -> tuple[str, ...]:
    """Return the kinds of rows that the values of an index number."""
    if not isinstance(leaf, TensorSpec):
        return ()
    return leaf.ends if leaf.role == "edges" else leaf.into


def _inside(values: Tensor, pool: Tensor, count: int, told: bool, generator: torch.Generator) -> Tensor:
    """Bring indices that were drawn from a pool below ``count``; negative ones (padding) stay negative.

    ``told``: the user said that they number rows; else small ones may be categories, and stay as they are.
    """
    if count < 1 or not values.numel() or (int(pool.max()) < count and not told):
        return values.clamp(min=-max(count, 1))
    if pool.dim() == 1 and len(set(pool.tolist())) == len(pool) and len(values) <= count:
        return torch.randperm(count, generator=generator)[: len(values)]  # no row twice, as in the example
    inside = torch.where(values < 0, values.clamp(min=-count), values % count)
    last = count - 1 - torch.arange(values[-1].numel())  # layers read the number of rows off the largest index
    inside[-1] = (last % count).reshape(values[-1].shape)
    if pool.dim() == 2 and pool.shape[1] == 2 and not (pool[:, 0] == pool[:, 1]).any():  # pairs of different nodes
        inside[:, 1] = torch.where(inside[:, 0] == inside[:, 1], (inside[:, 1] + 1) % count, inside[:, 1])
    return inside
