"""Find the row axes of example arguments: the axes that count nodes, edges or graphs.

An axis is recognised by argument name, by its place in tuples and dictionaries (node and edge types), and by size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from upscale_fx.tracing.argument_names import (
    NODE_ARGUMENTS,
    is_edge_index,
    is_features,
    is_relation,
    numbered,
    numbers_graphs,
)
from upscale_fx.tracing.several_graphs import Leaf, edge_indices, leaves_of, several_graphs

Path = tuple[Any, ...]


@dataclass
class ExampleRows:
    """Row symbols and their sizes in the example; ``types`` gives the symbol of every node type and edge type.

    Guesses that an example leaves open are choices: ``node_axis``, the axis of nodes in sequences and batches of
    features (None: the likeliest), ``apart``, whether several edge indices may belong to several graphs, and ``sided``,
    whether they may go between any two tensors of features.
    """

    node_axis: int | None = None
    apart: bool = True
    sided: bool = False
    sizes: dict[str, int] = field(default_factory=dict)
    types: dict[Any, str] = field(default_factory=dict)
    ends: dict[Any, tuple[str, str]] = field(default_factory=dict)
    nodes_known: bool = False
    degree: int = 0
    batched: bool = False  # features are [B, N, F]
    others: dict[int, str] = field(default_factory=dict)  # by size, axes that count anything else
    graphs: dict[Leaf, dict[str, int]] = field(default_factory=dict)  # of several graphs, the rows of that of a leaf
    counts: dict[Leaf, str] = field(default_factory=dict)  # by number that is a size of a matrix, what it counts
    layouts: dict[Leaf, str] = field(default_factory=dict)  # by edges that are the entries of a matrix, how it has them

    def learn(self, arguments: Mapping[str, Any]) -> None:
        """Collect the row symbols of all arguments."""
        if self.apart:
            self._learn_graphs(arguments)
        self._learn_given_sizes(arguments)
        if self.sided:
            self._learn_many_sides(arguments)
        largest = self.largest_index(arguments)
        for name, value in arguments.items():
            self._learn_argument(name, value, largest)
        for leaf, value in leaves_of(arguments).items():
            nested = len(leaf) > 1 and not any(key in self.types for key in leaf)
            if nested and leaf not in self.graphs and is_edge_index(leaf[0], value):
                self._learn_edges(leaf[0], value)
        if "N" not in self.sizes:
            self._learn_sides(arguments)
        if "N" not in self.sizes and largest >= 0:  # integers per node: its number, its type, its words
            integers = [v for v in arguments.values() if isinstance(v, Tensor) and not v.is_floating_point()]
            vectors = [v for v in integers if v.dim() == 1] or [v for v in integers if v.dim() == 2 and len(v) > 2]
            lengths = {len(v) for v in vectors if len(v) > largest and len(v) not in self.sizes.values()}
            if len(lengths) == 1:
                self.sizes["N"] = lengths.pop()
        self.nodes_known = "N" in self.sizes
        if not self.nodes_known:
            floats = [v for v in pytree.tree_leaves(dict(arguments)) if is_features(v) and v.dim() > 1]
            if floats:
                self._learn_nodes(floats[0], largest)
                self.nodes_known = True
        self._learn_vectors_of_edges(arguments)

    def largest_index(self, arguments: Mapping[str, Any]) -> int:
        """Return the largest node that an edge index of the first graph names, -1 without one."""
        mine = edge_indices(arguments).items()
        return max((int(value.max()) for leaf, value in mine if "N" in self.graphs.get(leaf, "N")), default=-1)

    def _learn_argument(self, name: str, value: Any, largest: int) -> None:
        if isinstance(value, dict):
            self._learn_types(value)
        elif name in NODE_ARGUMENTS and isinstance(value, tuple | list) and len(value) == 2:
            self._learn_pair(*value)
        elif isinstance(value, Tensor) and is_edge_index(name, value):
            if (name,) not in self.graphs:
                self._learn_edges(name, value)
        elif isinstance(value, Tensor) and name in NODE_ARGUMENTS and value.dim():
            self._learn_nodes(value, largest)
        is_vector = isinstance(value, Tensor) and value.dim() == 1 and value.dtype == torch.long
        if is_vector and numbers_graphs(name, value):
            self.sizes["B"] = int(value.max()) + 1 if value.numel() else 1

    def _learn_nodes(self, value: Tensor, largest: int) -> None:
        """Learn the number of nodes from ``[N, F]``, ``[B, N, F]``, ``[N, T, F]``, ``[B, T, N, F]``, ..."""
        axes = node_axes(value, largest)
        axis = self.node_axis if self.node_axis in axes else axes[0]
        self.sizes.setdefault("N", value.shape[axis])
        self.batched = value.dim() > 2 and self.sizes["N"] == value.shape[-2] and axis == value.dim() - 2
        if self.batched:
            self.others[value.shape[0]] = "R0"

    def _learn_graphs(self, arguments: Mapping[str, Any]) -> None:
        """Learn the rows of several graphs: N and E of the first, N2 and E1 of the second, ..."""
        for number, graph in enumerate(several_graphs(arguments)):
            rows = {"N" if not number else f"N{number + 1}": graph.nodes}
            for count in graph.edges.values():
                if count not in rows.values():
                    made = sum(symbol[0] == "E" for symbol in (*self.sizes, *rows))
                    rows[f"E{made}" if made else "E"] = count
            self.sizes |= rows
            self.graphs |= dict.fromkeys(graph.leaves, rows)

    def _learn_vectors_of_edges(self, arguments: Mapping[str, Any]) -> None:
        """Learn the number of edges from two vectors ``[E]`` of their ends, or from pairs ``[E, 2]``."""
        if any(symbol[0] == "E" for symbol in self.sizes):
            return
        vectors: dict[int, int] = {}
        for leaf, value in leaves_of(arguments).items():
            is_index = not value.is_floating_point() and value.dtype != torch.bool
            if not is_index or not value.dim() or len(value) in self.sizes.values() or numbers_graphs(leaf[0], value):
                continue
            if value.dim() == 1 or (value.dim() == 2 and value.shape[1] == 2):
                vectors[len(value)] = vectors.get(len(value), 0) + value.dim()
        if len(vectors) == 1 and max(vectors.values()) > 1:
            self.sizes["E"] = next(iter(vectors))

    def _learn_types(self, value: dict[Any, Any]) -> None:
        for key, tensor in value.items():
            if isinstance(tensor, Tensor) and not is_relation(key):
                symbol = self.types.setdefault(key, numbered("N", self.types, False))
                self.sizes.setdefault(symbol, tensor.shape[0] if tensor.dim() else 0)
        for key, tensor in value.items():
            if isinstance(tensor, Tensor) and is_relation(key) and is_edge_index("", tensor):
                symbol = self.types.setdefault(key, numbered("E", self.types, True))
                self.sizes.setdefault(symbol, tensor.shape[1])

    def _learn_pair(self, source: Any, target: Any) -> None:
        """Learn from features, or indices, of the source and target nodes of a bipartite graph."""
        if isinstance(source, Tensor) and source.dim():
            self.sizes.setdefault("N", source.shape[0])
        if isinstance(target, Tensor) and target.dim() and target is not source:
            self.sizes.setdefault("N1", target.shape[0])

    def _learn_sides(self, arguments: Mapping[str, Any]) -> None:
        """Match two feature arguments to source and target nodes of a bipartite graph, by the largest edge indices."""
        edges = list(edge_indices(arguments).values())
        sides = [v.shape[0] for v in arguments.values() if is_features(v) and v.dim() == 2]
        sides = [count for count in sides if count not in self.sizes.values()]
        if len(edges) != 1 or len(sides) != 2:
            return
        source, target = (int(row.max()) for row in edges[0])
        for sources, targets in (sides, sides[::-1]):
            # An index beyond the smaller side proves that the two rows of edges index different nodes.
            if source < sources and target < targets and max(source, target) >= min(sides):
                self.sizes |= {"N": sources, "N1": targets}
                return

    def _learn_given_sizes(self, arguments: Mapping[str, Any]) -> None:
        """Learn the numbers of source and target nodes beside an edge index, as in ``(edge_index, e_id, size)``."""
        for leaf in edge_indices(arguments):
            container: Any = arguments
            for key in leaf[:-1]:
                container = container[key]
            beside = container if isinstance(container, tuple | list) else ()
            for size in beside:
                if isinstance(size, tuple | list) and len(size) == 2 and all(type(count) is int for count in size):
                    source, target = (self.kind_of_nodes(count) for count in size)
                    self.ends[leaf] = source, target

    def _learn_many_sides(self, arguments: Mapping[str, Any]) -> None:
        """Let every row of an edge index name the nodes of the fewest features that are enough for it."""
        edges = edge_indices(arguments)
        lengths = {value.shape[1] for value in edges.values()}
        features = [v for v in leaves_of(arguments).values() if is_features(v) and v.dim() == 2]
        counts = sorted({v.shape[0] for v in features if v.shape[0] not in lengths})
        kinds = {count: self.kind_of_nodes(count) for count in counts}
        for leaf, value in edges.items():
            enough = [next((kinds[count] for count in counts if count > int(row.max())), None) for row in value]
            if None not in enough:
                self.ends[leaf] = str(enough[0]), str(enough[1])

    def kind_of_nodes(self, count: int) -> str:
        """Return the symbol of nodes of this number, a new one if there is none."""
        known = next((s for s, size in self.sizes.items() if s[0] == "N" and size == count), None)
        new = "N" if "N" not in self.sizes else f"N{1 + sum(symbol[0] == 'N' for symbol in self.sizes)}"
        self.sizes.setdefault(known or new, count)
        return known or new

    def _learn_edges(self, name: str, value: Tensor) -> None:
        symbol = next((s for s, size in self.sizes.items() if s[0] == "E" and size == value.shape[1]), None)
        if symbol is None:
            symbol = "E" if "E" not in self.sizes else f"E{sum(s[0] == 'E' for s in self.sizes)}"
            self.sizes[symbol] = value.shape[1]
        count, rest = divmod(value.shape[1], max(self.sizes.get("N", 1), 1))
        regular = torch.arange(self.sizes.get("N", 0)).repeat_interleave(count)
        if count > 1 and not rest and torch.equal(value[1].cpu(), regular):
            self.degree = count
        if "hyperedge" in name and value.numel():
            self.sizes.setdefault("N1", int(value[1].max()) + 1)
            self.ends[name,] = ("N", "N1")


def node_axes(value: Tensor, largest: int) -> list[int]:
    """Return the axes that may count nodes, the likeliest first.

    These are axes longer than the largest index of a node. One that is longer by exactly one is the only candidate;
    without edges there is only the axis before the last.
    """
    if value.dim() < 3:
        return [0]
    axes = dict.fromkeys(axis % value.dim() for axis in (-2, 0, *range(1, value.dim() - 1)))
    exact = [axis for axis in axes if value.shape[axis] == largest + 1]
    fitting = exact[:1] or [axis for axis in axes if value.shape[axis] > largest]
    return fitting[: 1 if largest < 0 else None] or [0]
