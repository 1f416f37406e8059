"""What each value of a flat graph has rows of: nodes, edges, or nothing. Found on two example graphs.

All kinds of nodes and edges have different numbers in both graphs, so sizes tell them apart. Which end of the edges an
index names is told by its numbers: whatever their order, they are those of one row of ``edge_index``, and those of all
nodes where self loops were added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from upscale_fx.analysis.stages.run import leaves, run_flat
from upscale_fx.compiled import functions
from upscale_fx.compiled.inputs import ModelInputs, TensorSpec
from upscale_fx.compiled.module import CompiledGNN, inputs_of
from upscale_fx.compiled.selections import selects_rows
from upscale_fx.errors import ServerError

#: Rows of example graphs to try, until no two kinds of rows have equally many.
_SIZES = (
    ({"N": 13, "E": 61, "B": 1}, {"N": 23, "E": 97, "B": 1}),
    ({"N": 17, "E": 83, "B": 1}, {"N": 29, "E": 131, "B": 1}),
)
#: Kinds of values that are the same for all nodes.
_NO_ROWS = ("constant", "structure")
#: The most rows per node or edge: values ``[N * heads, ...]`` have several.
_MOST_ROWS = 64


@dataclass(frozen=True)
class Kind:
    """What a value has rows of.

    Attributes:
        rows: ``"nodes"``, ``"edges"``, ``"count"`` (a number of nodes), ``"constant"`` (depends on no argument with
            rows), ``"structure"`` (one value for the whole graph, computed from its edges alone) or ``"graph"``
            (depends on the features of the whole graph, or has other rows).
        of: the symbol of the nodes, or the argument that holds the edges.
        end: of an index over edges, the row of ``edge_index`` that it names; None for other values.
        loops: whether there is a row for the self loop of every node.
        selected: whether these are some of the rows, selected by value.
    """

    rows: Literal["nodes", "edges", "count", "constant", "structure", "graph"]
    of: str = ""
    end: int | None = None
    loops: bool = False
    selected: bool = False


@dataclass(frozen=True)
class Edges:
    """One argument that holds edges: its path (see ``leaves``), the symbols of its rows and of its ends."""

    path: str
    symbol: str
    ends: tuple[str, str]


@dataclass(frozen=True)
class Kinds:
    """The kinds of all values of a flat graph.

    Attributes:
        values: of every node on the two example graphs.
        kinds: by node.
        edges: arguments with edges, by path.
        counts: on the two example graphs, how many nodes and edges there are of each symbol.
        data: values that depend on features or parameters; others are structure.
        module: the model, which has the modules that the graph calls.
    """

    graph: fx.Graph
    values: Mapping[fx.Node, tuple[Any, Any]]
    kinds: Mapping[fx.Node, Kind]
    edges: Mapping[str, Edges]
    counts: tuple[Mapping[str, int], Mapping[str, int]]
    data: frozenset[fx.Node]
    module: nn.Module

    def is_count(self, symbol: str, first: int, second: int) -> bool:
        """Whether two numbers are those of the nodes or edges of a symbol."""
        return (first, second) == tuple(count[symbol] for count in self.counts)


def find_kinds(gm: CompiledGNN, graph: fx.Graph) -> Kinds:
    """Run a flat graph of ``gm`` on two example graphs, and tell what its values have rows of."""
    inputs = inputs_of(gm)
    specs = dict(leaves(inputs.arguments))
    edges = {
        path: Edges(path, str(spec.axes[1]), spec.ends)
        for path, spec in specs.items()
        if isinstance(spec, TensorSpec) and spec.role == "edges"
    }
    nodes = tuple(symbol for symbol in inputs.symbols() if symbol[0] == "N")
    sides, counts = _examples(inputs, nodes, edges)
    values = run_flat(gm, graph, sides)
    judge = _Judge(nodes, edges, counts, [dict(leaves(side)) for side in sides])
    kinds: dict[fx.Node, Kind] = {}
    structural: set[fx.Node] = set()
    for node in graph.nodes:
        kind = judge.kind(node, values[node], kinds)
        if (
            kind.rows in ("edges", "count", "constant")
            if node.op == "placeholder"
            else (kind.rows in ("count", "constant") or structural.issuperset(node.all_input_nodes))
        ):
            structural.add(node)
        if kind.rows == "graph" and node in structural and node.op not in ("output", "placeholder"):
            kind = Kind("structure")
        kinds[node] = kind
    return Kinds(graph, values, kinds, edges, counts, _data(graph, values), gm)


def _data(graph: fx.Graph, values: Mapping[fx.Node, tuple[Any, Any]]) -> frozenset[fx.Node]:
    """Values that are computed from features with several channels, or from parameters."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        value = values[node][0]
        if node.op == "placeholder":
            is_data = isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1
        elif node.op == "get_attr":
            is_data = isinstance(value, nn.Parameter)
        else:
            is_data = _first_tensor(value) is not None and not found.isdisjoint(node.all_input_nodes)
        if is_data:
            found.add(node)
    return frozenset(found)


def _examples(
    inputs: ModelInputs, nodes: tuple[str, ...], edges: Mapping[str, Edges]
) -> tuple[tuple[dict[str, Any], dict[str, Any]], tuple[dict[str, int], dict[str, int]]]:
    """Example graphs in which no two kinds of rows have equally many."""
    for sizes in _SIZES:
        counts = tuple(inputs.counts(rows) for rows in sizes)
        numbers = [[count[s] for s in (*nodes, *{e.symbol for e in edges.values()})] for count in counts]
        if all(len(set(row)) == len(row) for row in numbers):
            return (inputs.example(sizes[0]), inputs.example(sizes[1])), (counts[0], counts[1])
    raise ServerError("this graph takes fixed numbers of nodes or edges, so nodes cannot be answered one by one")


class _Judge:
    """Tells kinds by the sizes and numbers of two example graphs."""

    def __init__(
        self,
        nodes: tuple[str, ...],
        edges: Mapping[str, Edges],
        counts: tuple[Mapping[str, int], Mapping[str, int]],
        arguments: list[dict[str, Any]],
    ) -> None:
        self.nodes, self.edges, self.counts = nodes, edges, counts
        self.arguments = arguments

    def kind(self, node: fx.Node, pair: tuple[Any, Any], known: Mapping[fx.Node, Kind]) -> Kind:
        """The kind of one value."""
        if node.op == "output":
            return Kind("graph")
        from_graph = node.op == "placeholder" or any(known[n].rows not in _NO_ROWS for n in node.all_input_nodes)
        some = [known[n] for n in node.all_input_nodes if known[n].selected or selects_rows(node.target)]
        some = [kind for kind in some if kind.rows in ("nodes", "edges")]
        if some and node.target is not functions.set_item:
            return replace(some[0], end=None, selected=True)
        first, second = (_first_tensor(value) for value in pair)
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            if not from_graph:
                return _without_rows(node, known)
            return self._of_tensor(first, second) or _constant_or_graph(node, first, second)
        values = [pytree.tree_leaves(value) for value in pair]
        if len(values[0]) == 1 and all(isinstance(v[0], int) and not isinstance(v[0], bool) for v in values):
            symbol = self._count(values[0][0], values[1][0])
            if symbol is not None and from_graph:
                return symbol
        if not from_graph:
            return _without_rows(node, known)
        return Kind("constant") if _equal(pair) else Kind("graph")

    def _count(self, first: int, second: int) -> Kind | None:
        for symbol in self.nodes:
            if (first, second) == tuple(count[symbol] for count in self.counts):
                return Kind("count", symbol)
        for path, edges in self.edges.items():
            for loops in (False, True):
                if (first, second) == self._edge_counts(edges, loops):
                    return Kind("edges", path, None, loops)
        return None

    def _edge_counts(self, edges: Edges, loops: bool) -> tuple[int, int]:
        first, second = (
            count[edges.symbol] + (min(count[end] for end in edges.ends) if loops else 0) for count in self.counts
        )
        return first, second

    def _of_tensor(self, first: Tensor, second: Tensor) -> Kind | None:
        """The kind of a tensor by its leading axes; None if it has no such rows."""
        for axis in range(min(first.dim(), 3)):
            pair = first.shape[axis], second.shape[axis]
            if pair[0] == pair[1]:
                continue
            for symbol in self.nodes:
                if _multiple(pair, tuple(count[symbol] for count in self.counts)):
                    return Kind("nodes", symbol)
            for path, edges in self.edges.items():
                for loops in (False, True):
                    if _multiple(pair, self._edge_counts(edges, loops)):
                        return Kind("edges", path, self._end(path, edges, first, second, loops), loops)
                if any(pair == tuple(count[end] + 1 for count in self.counts) for end in edges.ends):
                    end, loops = self._end_of_rowptr(path, edges, first, second)
                    if end is not None:
                        return Kind("edges", path, end, loops)
        return None

    def _end(self, path: str, edges: Edges, first: Tensor, second: Tensor, loops: bool) -> int | None:
        if first.dim() != 1 or first.dtype not in (torch.int64, torch.int32):
            return None
        for end in (0, 1):
            if all(
                torch.equal(value.long().sort().values, self._numbers(path, edges, end, side, loops).sort().values)
                for side, value in enumerate((first, second))
            ):
                return end
        return None

    def _end_of_rowptr(self, path: str, edges: Edges, first: Tensor, second: Tensor) -> tuple[int | None, bool]:
        if first.dim() != 1 or first.dtype != torch.int64:
            return None, False
        for end in (1, 0):
            for loops in (False, True):
                if all(
                    torch.equal(
                        value.diff(),
                        torch.bincount(
                            self._numbers(path, edges, end, side, loops), minlength=self.counts[side][edges.ends[end]]
                        ),
                    )
                    for side, value in enumerate((first, second))
                ):
                    return end, loops
        return None, False

    def _numbers(self, path: str, edges: Edges, end: int, side: int, loops: bool) -> Tensor:
        index: Tensor = self.arguments[side][path][end].long()
        if not loops:
            return index
        count = min(self.counts[side][symbol] for symbol in edges.ends)
        return torch.cat([index, torch.arange(count)])


def _without_rows(node: fx.Node, known: Mapping[fx.Node, Kind]) -> Kind:
    return Kind("structure" if any(known[n].rows == "structure" for n in node.all_input_nodes) else "constant")


def _multiple(pair: tuple[int, ...], counts: tuple[int, ...]) -> bool:
    times, rest = divmod(pair[0], counts[0])
    return not rest and 0 < times <= _MOST_ROWS and pair[1] == times * counts[1]


def _first_tensor(value: Any) -> Any:
    return next((leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)), None)


def _equal(pair: tuple[Any, Any]) -> bool:
    try:
        return bool(pair[0] == pair[1])
    except Exception:
        return False


def _constant_or_graph(node: fx.Node, first: Tensor, second: Tensor) -> Kind:
    """An argument without rows, such as one vector for the graph, is constant; other values depend on all rows."""
    return Kind("constant" if node.op == "placeholder" else "graph")
