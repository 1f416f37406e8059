"""What stands for a sparse matrix while a model is traced: proxies of the rows, columns and values of its entries.

A call that :mod:`~upscale_fx.tracing.matrices.calls` knows is recorded as operations on these. For every other call
the matrix itself becomes a node of the graph, made of its entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch_geometric.utils import coalesce  # as it is; in PyG's own modules it is replaced in traces

from upscale_fx.compiled.example_values import Pair
from upscale_fx.compiled.objects.matrices import (
    EDGES,
    NODES,
    RAW,
    SOURCES,
    TARGETS,
    WEIGHTS,
    made_matrix,
    pointer_of,
)
from upscale_fx.tracing.proxy import ExampleProxy, ProxyTracer, SizeTuple, example_side


class MatrixProxy(ExampleProxy):
    """A sparse matrix ``[rows, columns]``.

    Attributes:
        row, column: the targets and the sources of the edges, ``[E]``.
        weights: the values of the entries, ``[E]`` or ``[E, D]``.
        rows, columns: the sizes, as proxies or numbers.
        kind: how it stores entries: ``"csr"``, ``"csc"``, ``"coo"`` or, in any order, ``"raw"``.
        in_order: whether row, column and weights are in the order in which it stores them.
    """

    def __init__(
        self,
        tracer: ProxyTracer,
        row: Any,
        column: Any,
        weights: Any,
        size: tuple[Any, Any],
        kind: str,
        in_order: bool = True,
    ) -> None:
        self._made: tuple[Any, ExampleProxy] | None = None
        self._examples: tuple[Any, Pair] | None = None
        self.row, self.column, self.weights, self.kind, self.in_order = row, column, weights, kind, in_order
        self.rows, self.columns = size
        super().__init__(row.node, tracer, (None, None))

    # The matrix as a whole -----------------------------------------------------------------------------------------

    def _arguments(self) -> tuple[Any, ...]:
        return self.row, self.column, self.weights, self.rows, self.columns, self.kind

    @property
    def pair(self) -> Pair:
        """The matrix on both examples; forward() may have written into its values since it was made."""
        now = self.row.node, getattr(self.weights, "node", None)
        if self._examples is None or self._examples[0] != now:
            first, second = (made_matrix(*example_side(self._arguments(), side)) for side in (0, 1))
            self._examples = now, (first, second)
        return self._examples[1]

    @pair.setter
    def pair(self, value: Pair) -> None:
        """Ignored: it follows from the entries."""

    @property
    def node(self) -> fx.Node:
        """The node of the matrix itself, for calls that are not recorded on its entries."""
        now = self.row.node, getattr(self.weights, "node", None)
        if self._made is None or self._made[0] != now:
            made: Any = self.tracer.create_proxy("call_function", made_matrix, self._arguments(), {})
            self._made = now, made
        return self._made[1].node

    @node.setter
    def node(self, value: fx.Node) -> None:
        """Ignored: a matrix has no node until it is needed."""

    def matrix_parts(self, square: bool | None = None) -> dict[str, Any]:
        """The edges, weights and sizes that a result has in place of the matrix."""
        own = self.ordered()
        square = self.rows is self.columns if square is None else square
        counts = {NODES: self.rows} if square else {TARGETS: self.rows, SOURCES: self.columns}
        return {EDGES: torch.stack([own.column, own.row]), WEIGHTS: own.weights, **counts}

    def size(self, dim: int | None = None) -> Any:
        """The sizes; those of rows and columns stay in the graph."""
        sizes = SizeTuple((self.rows, self.columns, *self.weights.size()[1:]))
        return sizes if dim is None else sizes[dim]

    @property
    def shape(self) -> Any:
        """As :meth:`size`."""
        return self.size()

    @property
    def dtype(self) -> Any:
        """That of the values."""
        return self.weights.dtype

    # Entries --------------------------------------------------------------------------------------------------------

    def like(self, weights: Any) -> MatrixProxy:
        """Return a matrix with other values at the same places."""
        return MatrixProxy(
            self.tracer, self.row, self.column, weights, (self.rows, self.columns), self.kind, self.in_order
        )

    def transposed(self) -> MatrixProxy:
        """Return the matrix with rows and columns exchanged."""
        own = self.ordered()
        kind = {"csr": "csc", "csc": "csr"}.get(self.kind, RAW)
        return MatrixProxy(self.tracer, own.column, own.row, own.weights, (self.columns, self.rows), kind)

    def sorted_as(self, kind: str) -> MatrixProxy:
        """Return the same matrix in another layout; entries that are given twice are added."""
        if {kind, self.kind} <= {"csr", "coo"} and self.in_order:
            row, column, weights = self.row, self.column, self.weights
        else:
            first, second = (self.column, self.row) if kind == "csc" else (self.row, self.column)
            edges, weights = _coalesced(self.tracer, torch.stack([first, second]), self.weights)
            row, column = (edges[1], edges[0]) if kind == "csc" else (edges[0], edges[1])
        return MatrixProxy(self.tracer, row, column, weights, (self.rows, self.columns), kind)

    def ordered(self) -> MatrixProxy:
        """Return this matrix, its entries put in the order in which it stores them."""
        if not self.in_order:
            other = self.sorted_as(self.kind)
            self.row, self.column, self.weights, self.in_order = other.row, other.column, other.weights, True
        return self

    def indices(self) -> EdgesProxy:
        """Rows and columns of the entries, ``[2, E]``."""
        own = self.ordered()
        both: Any = torch.stack([own.row, own.column])
        return EdgesProxy(both.node, self.tracer, both.pair, (own.row, own.column))

    def pointer(self, index: Any, count: Any) -> PointerProxy:
        """Where the entries of each row begin, for sorted rows ``index``."""
        return pointer(self.tracer, index, count)


class EdgesProxy(ExampleProxy):
    """Rows and columns of entries, ``[2, E]``; ``halves`` are those that it was made of."""

    def __init__(self, node: fx.Node, tracer: ProxyTracer, pair: Any, halves: tuple[Any, Any]) -> None:
        super().__init__(node, tracer, pair)
        self.halves = halves


class PointerProxy(ExampleProxy):
    """Where the entries of each row begin, ``[rows + 1]``; ``index`` is the row of every entry."""

    def __init__(self, node: fx.Node, tracer: ProxyTracer, pair: Any, index: Any) -> None:
        super().__init__(node, tracer, pair)
        self.index = index


def pointer(tracer: ProxyTracer, index: Any, count: Any) -> PointerProxy:
    """Record where the entries of each row begin, for sorted rows ``index``."""
    made = tracer.create_proxy("call_function", pointer_of, (index, count), {})
    return PointerProxy(made.node, tracer, made.pair, index)


def _coalesced(tracer: ProxyTracer, edges: Any, weights: Any) -> Any:
    """Record PyG's ``coalesce``: edges sorted by their first row, the values of equal ones added."""
    return tracer.create_proxy("call_function", coalesce, (edges, weights), {})


def matrix_of_parts(tracer: ProxyTracer, layout: str, parts: Mapping[str, Any]) -> MatrixProxy:
    """Return the matrix of the arguments that it was taken apart into."""
    edges = parts[EDGES]
    size = (parts[NODES], parts[NODES]) if NODES in parts else (parts[TARGETS], parts[SOURCES])
    return MatrixProxy(tracer, edges[1], edges[0], parts[WEIGHTS], size, layout)
