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
from torch_geometric.data.data import BaseData

from upscale_fx.compiled.inputs import RowCount, TensorSpec
from upscale_fx.errors import InputError

_NODE_ARGUMENTS = ("x", "pos", "z", "h", "x_0")
_EDGE_INDEX = "edge_index"
Path = tuple[Any, ...]


@dataclass
class ExampleRows:
    """Row symbols and their sizes in the example; ``types`` gives the symbol of every node type and edge type."""

    sizes: dict[str, int] = field(default_factory=dict)
    types: dict[Any, str] = field(default_factory=dict)
    ends: dict[Any, tuple[str, str]] = field(default_factory=dict)
    nodes_known: bool = False
    degree: int = 0
    batched: bool = False  # features are [B, N, F]

    # Learning ----------------------------------------------------------------------------------------------------

    def learn(self, arguments: Mapping[str, Any]) -> None:
        """Collect the row symbols of all arguments."""
        largest = self._largest_index(arguments)
        for name, value in arguments.items():
            if isinstance(value, dict):
                self._learn_types(value)
            elif name in _NODE_ARGUMENTS and isinstance(value, tuple | list) and len(value) == 2:
                self._learn_pair(*value)
            elif isinstance(value, Tensor) and is_edge_index(name, value):
                self._learn_edges(name, value)
            elif isinstance(value, Tensor) and name in _NODE_ARGUMENTS and value.dim():
                self.sizes.setdefault("N", _node_count(value, largest))
                self.batched = value.dim() > 2 and self.sizes["N"] == value.shape[-2]
            if (
                isinstance(value, Tensor)
                and value.dim() == 1
                and value.dtype == torch.long
                and _numbers_graphs(name, value)
            ):
                self.sizes["B"] = int(value.max()) + 1 if value.numel() else 1
        if "N" not in self.sizes:
            self._learn_sides(arguments)
        if "N" not in self.sizes and largest >= 0:  # one integer per node: its number, its type
            vectors = [
                v for v in arguments.values() if isinstance(v, Tensor) and v.dim() == 1 and not v.is_floating_point()
            ]
            lengths = {len(v) for v in vectors if len(v) > largest and len(v) not in self.sizes.values()}
            if len(lengths) == 1:
                self.sizes["N"] = lengths.pop()
        self.nodes_known = "N" in self.sizes
        if not self.nodes_known:
            floats = [v for v in pytree.tree_leaves(dict(arguments)) if _is_features(v) and v.dim() > 1]
            if floats:
                self.sizes["N"] = floats[0].shape[-2]
                self.nodes_known = True

    def _largest_index(self, arguments: Mapping[str, Any]) -> int:
        return max((int(value.max()) for value in _edge_indices(arguments)), default=-1)

    def _learn_types(self, value: dict[Any, Any]) -> None:
        for key, tensor in value.items():
            if isinstance(tensor, Tensor) and not _is_relation(key):
                symbol = self.types.setdefault(key, _numbered("N", self.types, _is_relation, False))
                self.sizes.setdefault(symbol, tensor.shape[0] if tensor.dim() else 0)
        for key, tensor in value.items():
            if isinstance(tensor, Tensor) and _is_relation(key) and is_edge_index("", tensor):
                symbol = self.types.setdefault(key, _numbered("E", self.types, _is_relation, True))
                self.sizes.setdefault(symbol, tensor.shape[1])

    def _learn_pair(self, source: Any, target: Any) -> None:
        """Learn from features, or indices, of the source and target nodes of a bipartite graph."""
        if isinstance(source, Tensor) and source.dim():
            self.sizes.setdefault("N", source.shape[0])
        if isinstance(target, Tensor) and target.dim() and target is not source:
            self.sizes.setdefault("N1", target.shape[0])

    def _learn_sides(self, arguments: Mapping[str, Any]) -> None:
        """Match two feature arguments to source and target nodes of a bipartite graph, by the largest edge indices."""
        edges = _edge_indices(arguments)
        sides = [v.shape[0] for v in arguments.values() if _is_features(v) and v.dim() == 2]
        sides = [count for count in sides if count not in self.sizes.values()]
        if len(edges) != 1 or len(sides) != 2:
            return
        source, target = (int(row.max()) for row in edges[0])
        for sources, targets in (sides, sides[::-1]):
            # An index beyond the smaller side proves that the two rows of edges index different nodes.
            if source < sources and target < targets and max(source, target) >= min(sides):
                self.sizes |= {"N": sources, "N1": targets}
                return

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
            self.ends[name] = ("N", "N1")

    # Answers -----------------------------------------------------------------------------------------------------

    def spec(self, name: str, path: Path, value: Any) -> Any:
        """Return the description of one leaf of the arguments: a TensorSpec, a RowCount or the constant itself."""
        if isinstance(value, Tensor):
            return self._tensor_spec(name, path, value)
        if name == _EDGE_INDEX and isinstance(value, bool | str | int | float):
            raise InputError(f"argument '{name}' must be an integer tensor of shape [2, E], got {value!r}")
        if isinstance(value, bool) or value is None or isinstance(value, str | float):
            return value
        if isinstance(value, int):
            return self._count(name, path, value)
        if isinstance(value, BaseData):
            raise InputError(
                f"argument '{name}' is a {type(value).__name__}, but a graph takes tensors: give the model a forward "
                f"of tensors, as in forward(x, edge_index), and call it from one that takes the {type(value).__name__}"
            )
        raise InputError(
            f"argument '{name}' is a {type(value).__name__}, which cannot be traced; pass dense tensors "
            f"(an edge_index of shape [2, E] instead of a SparseTensor)"
        )

    def _count(self, name: str, path: Path, value: int) -> Any:
        if name == "size" and path:
            return RowCount("N1" if path[-1] == 1 and "N1" in self.sizes else "N")
        if name in ("batch_size", "num_graphs", "dim_size"):
            return RowCount("B")
        if name == "num_edges" and "N1" in self.sizes:
            return RowCount("N1")
        if name == "max_num_elements":
            return value  # the length of padded batches; nodes beyond it are cut off, as in the module itself
        if name in ("num_nodes", "size"):
            return RowCount("N")
        symbol = next((s for s, size in self.sizes.items() if size == value and s[0] == "N"), None)
        return value if symbol is None else RowCount(symbol)

    def _tensor_spec(self, name: str, path: Path, value: Tensor) -> TensorSpec:
        if value.layout != torch.strided:
            raise InputError(f"argument '{name}' is sparse ({value.layout}); trace with an edge_index of shape [2, E]")
        row_symbol = next((self.types[key] for key in path if key in self.types), None)
        if is_edge_index(name, value):
            return self._edge_spec(name, path, value, row_symbol)
        if value.dim() == 0:
            return TensorSpec((), value.dtype, "feature")
        if row_symbol is None and path and path[-1] in (0, 1) and name in _NODE_ARGUMENTS:
            row_symbol = "N1" if path[-1] == 1 and self.sizes.get("N1") == value.shape[0] else "N"
        integral = not value.is_floating_point() and value.dtype != torch.bool
        if integral and name == "ptr":
            return TensorSpec(("P0",), value.dtype, "ptr")
        if integral and name.endswith("_ptr"):  # one entry per type of node
            return TensorSpec((len(value),), value.dtype, "ptr")
        if integral and _numbers_graphs(name, value):
            return TensorSpec((row_symbol or self._symbol(name, value, 0),), value.dtype, "batch")
        if integral:
            pool = value.detach().cpu()[:4096]
            if not len(pool):
                raise InputError(f"argument '{name}' has no rows; give an example with at least one")
            lead = row_symbol or self._symbol(name, value, 0)
            ordered = value.dim() == 1 and len(value) > 1 and bool((value[1:] >= value[:-1]).all())
            return TensorSpec(
                (lead, *value.shape[1:]), value.dtype, "index", pool.sort().values if ordered else pool, ordered=ordered
            )
        if value.dim() == 4 and not any(row_symbol[0] == "E" for row_symbol in self.sizes):
            return TensorSpec(("B", *value.shape[1:]), value.dtype)  # images [B, C, H, W]
        rows = self._row_axes(name, value)
        if self.batched and value.dim() > 2 and value.shape[0] == 1 and name in ("adj", "adj_t"):
            rows = range(1, value.dim())  # one adjacency matrix for all graphs
        axes: list[str | int] = [self._symbol(name, value, a) if a in rows else s for a, s in enumerate(value.shape)]
        if row_symbol is not None:
            axes[0] = row_symbol
        return TensorSpec(tuple(axes), value.dtype)

    def _edge_spec(self, name: str, path: Path, value: Tensor, symbol: str | None) -> TensorSpec:
        ordered = value.shape[1] > 1 and bool((value[1, 1:] >= value[1, :-1]).all())
        limit = int(value.max()) + 1 if not self.nodes_known and value.numel() else None
        relation = next((key for key in path if _is_relation(key)), None)
        if relation is not None:
            source, target = _ends_of(relation)
            type_ends = (self.types.get(source, "N"), self.types.get(target, "N"))
            return TensorSpec((2, symbol or "E"), value.dtype, "edges", limit=limit, ends=type_ends, ordered=ordered)
        symbol = next((s for s, size in self.sizes.items() if s[0] == "E" and size == value.shape[1]), "E")
        ends = self.ends.get(name, ("N", "N1" if "N1" in self.sizes and not self.types and not self.ends else "N"))
        return TensorSpec((2, symbol), value.dtype, "edges", limit=limit, ends=ends, ordered=ordered)

    def _row_axes(self, name: str, value: Tensor) -> range:
        """Return the leading axes that are rows: all but the last, or only the first if layers or heads follow it."""
        count = value.dim()
        if name in ("adj", "adj_t") or (value.dtype == torch.bool and "mask" in name):
            return range(count)
        if count <= 2:
            return range(1)
        nodes = self.sizes.get("N")
        return range(1) if value.shape[0] == nodes and value.shape[-2] != nodes else range(count - 1)

    def _symbol(self, name: str, value: Tensor, axis: int) -> str:
        size = value.shape[axis]
        if axis == 0 and self.batched and "mask" in name:
            return "R0"
        if axis == 0 and value.dim() > 2 and self.sizes.get("N") == value.shape[-2]:
            return "R0"  # [B, N, F]: the number of graphs
        if "hyperedge" in name and self.sizes.get("N1") == size:
            return "N1"
        first = "E" if "edge" in name else "N"
        order = sorted(self.sizes, key=lambda symbol: symbol[0] != first)
        return next((s for s in order if self.sizes[s] == size), f"R{axis}")


def _is_features(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0


def _node_count(value: Tensor, largest: int) -> int:
    """Return the nodes of ``[N, F]``, of static graphs ``[B, N, F]``, or of ``[N, L, F]`` if the edges say so."""
    if value.dim() < 3:
        return value.shape[0]
    return value.shape[-2] if largest < value.shape[-2] else value.shape[0]


#: Parts of argument names that mean types: every graph has the same number of types, even where they are sorted.
_KINDS = ("type", "kind", "label", "cat", "class", "rel", "token")


def _numbers_graphs(name: str, value: Tensor) -> bool:
    """Whether integers give the graph of each row: by their name, or because they are sorted from 0 without gaps."""
    if "batch" in name or name == "index":
        return True
    if value.dim() != 1 or len(value) < 2 or int(value[0]) != 0 or any(kind in name for kind in _KINDS):
        return False
    steps = value[1:] - value[:-1]
    return bool(((steps == 0) | (steps == 1)).all()) and int(value[-1]) > 0


def _is_relation(key: Any) -> bool:
    return (isinstance(key, tuple) and len(key) > 1) or (isinstance(key, str) and "__" in key)


def _ends_of(relation: Any) -> tuple[Any, Any]:
    parts = relation if isinstance(relation, tuple) else relation.split("__")
    return parts[0], parts[-1]


def _numbered(letter: str, types: Mapping[Any, str], is_relation: Any, relations: bool) -> str:
    count = sum(is_relation(key) is relations for key in types)
    return f"{letter}{count}" if count else letter


def is_edge_index(name: str, value: Tensor) -> bool:
    """Whether a tensor is an index ``[2, E]``; raises InputError if it is named so but has another shape."""
    integral = not value.is_floating_point() and value.dtype != torch.bool
    fits = integral and value.dim() == 2 and value.shape[0] == 2
    if name == _EDGE_INDEX and not fits and value.layout == torch.strided:
        raise InputError(
            f"argument '{name}' must be an integer tensor of shape [2, E], "
            f"got {value.dtype} of shape {list(value.shape)}"
        )
    return fits


def _edge_indices(arguments: Mapping[str, Any]) -> list[Tensor]:
    """Return the arguments that are edge indices and not empty."""
    return [v for name, v in arguments.items() if isinstance(v, Tensor) and is_edge_index(name, v) and v.numel()]
