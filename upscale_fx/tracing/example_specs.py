"""Describe every tensor and number of an example call, by the row axes that were found in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data.data import BaseData

from upscale_fx.compiled.edges.forms import forms_of
from upscale_fx.compiled.inputs import SMALL, RowCount, TensorSpec, row_count
from upscale_fx.compiled.objects.matrices import why_refused
from upscale_fx.errors import InputError
from upscale_fx.tracing.argument_names import (
    EDGE_INDEX,
    NODE_ARGUMENTS,
    ends_of,
    is_edge_index,
    is_relation,
    names_categories,
    numbers_graphs,
)
from upscale_fx.tracing.example_rows import ExampleRows, Path

#: The most integers of an example that a description keeps.
_GIVEN = 20_000


@dataclass(frozen=True)
class ExampleSpecs:
    """The descriptions of leaves of arguments, from the rows of the example that they are part of."""

    rows: ExampleRows

    def spec(self, name: str, path: Path, value: Any) -> Any:
        """Return the description of one leaf of the arguments: a TensorSpec, a RowCount or the constant itself."""
        if isinstance(value, Tensor):
            layout = self.rows.layouts.get((name, *path), "")
            spec = replace(self._tensor_spec(name, path, value), sizes=tuple(value.shape), layout=layout)
            if spec.role in ("edges", "batch", "ptr") and value.numel() <= _GIVEN:
                spec = replace(spec, pool=value.detach().cpu())
            return replace(spec, forms=forms_of(value)) if spec.role == "edges" and not layout else spec
        if (name, *path) in self.rows.counts:
            return RowCount(self.rows.counts[name, *path], value)
        if name == EDGE_INDEX and isinstance(value, bool | str | int | float):
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
        if why := why_refused(value):
            raise InputError(f"argument '{name}' {why}")
        raise InputError(
            f"argument '{name}' is a {type(value).__name__}, which cannot be traced; pass dense tensors, or the graph "
            f"as an edge_index of shape [2, E]"
        )

    def _count(self, name: str, path: Path, value: int) -> Any:
        if name == "size" and path:
            return RowCount("N1" if path[-1] == 1 and "N1" in self.rows.sizes else "N", value)
        if name in ("batch_size", "num_graphs", "dim_size"):
            return RowCount("B", value)
        if name == "num_edges" and "N1" in self.rows.sizes:
            return RowCount("N1", value)
        if name == "max_num_elements":
            return value  # the length of padded batches; nodes beyond it are cut off, as in the module itself
        if name in ("num_nodes", "size"):
            return RowCount("N", value)
        symbol = next((s for s, size in self.rows.sizes.items() if size == value and s[0] == "N"), None)
        return value if symbol is None else RowCount(symbol, value)

    def _tensor_spec(self, name: str, path: Path, value: Tensor) -> TensorSpec:
        if why := why_refused(value):
            raise InputError(f"argument '{name}' {why}")
        row_symbol = next((self.rows.types[key] for key in path if key in self.rows.types), None)
        if is_edge_index(name, value):
            return self._edge_spec(name, path, value, row_symbol)
        if value.dim() == 0:
            return TensorSpec((), value.dtype, "feature")
        if row_symbol is None and path and path[-1] in (0, 1) and name in NODE_ARGUMENTS:
            row_symbol = "N1" if path[-1] == 1 and self.rows.sizes.get("N1") == value.shape[0] else "N"
        integral = not value.is_floating_point() and value.dtype != torch.bool
        if integral and name == "ptr" and value.dim() == 1:
            return TensorSpec(("P0",), value.dtype, "ptr")
        if integral and name.endswith("_ptr") and value.dim() == 1:  # one entry per type of node
            return TensorSpec((len(value),), value.dtype, "ptr")
        if integral and numbers_graphs(self._said(name, path), value):
            return TensorSpec((row_symbol or self._symbol(name, path, value, 0),), value.dtype, "batch")
        if integral:
            return self._index_spec(name, path, value, row_symbol)
        if value.dim() == 4 and not any(row_symbol[0] == "E" for row_symbol in self.rows.sizes):
            return TensorSpec(("B", *value.shape[1:]), value.dtype)  # images [B, C, H, W]
        rows = self._row_axes(name, value)
        if self.rows.batched and value.dim() > 2 and value.shape[0] == 1 and name in ("adj", "adj_t"):
            rows = range(1, value.dim())  # one adjacency matrix for all graphs
        axes: list[str | int] = [
            self._symbol(name, path, value, a) if a in rows else s for a, s in enumerate(value.shape)
        ]
        if row_symbol is not None:
            axes[0] = row_symbol
        return TensorSpec(tuple(axes), value.dtype)

    @staticmethod
    def _said(name: str, path: Path) -> str:
        """Return the name that says what integers are: their key, in a dictionary other than ``batch_dict``."""
        return path[-1] if path and isinstance(path[-1], str) and not name.endswith("_dict") else name

    def _index_spec(self, name: str, path: Path, value: Tensor, row_symbol: str | None) -> TensorSpec:
        """Describe integers that are no edges: numbers of rows in any shape, or categories."""
        pool = value.detach().cpu()[:4096]
        if not len(pool):
            raise InputError(f"argument '{name}' has no rows; give an example with at least one")
        axes: list[str | int] = [
            "N" if self.rows.batched and size == self.rows.sizes.get("N") else size for size in value.shape
        ]
        across = value.dim() == 2 and len(value) in (3, 4) and value.shape[1] > len(value)  # faces [3, F]
        lead = 1 if across and row_symbol is None and len(value) not in self.rows.sizes.values() else 0
        axes[lead] = row_symbol or self._symbol(name, path, value, lead)
        ordered = value.dim() == 1 and len(value) > 1 and bool((value[1:] >= value[:-1]).all())
        into = self._numbered_rows(name, path, value)
        pool = pool.sort().values if ordered else pool
        return TensorSpec(tuple(axes), value.dtype, "index", pool, ordered=ordered, into=into)

    def _numbered_rows(self, name: str, path: Path, value: Tensor) -> tuple[str, ...]:
        """Return the kinds of nodes, or else of edges, that integers may number: all that are numerous enough."""
        if names_categories(name):
            return ()
        rows = self.rows.graphs.get((name, *path), self.rows.sizes)
        for letter in "NE":
            kinds = tuple(s for s, size in rows.items() if s[0] == letter and size >= int(value.max()))
            if kinds:
                return kinds
        return ()

    def _edge_spec(self, name: str, path: Path, value: Tensor, symbol: str | None) -> TensorSpec:
        ordered = value.shape[1] > 1 and bool((value[1, 1:] >= value[1, :-1]).all())
        limit = int(value.max()) + 1 if not self.rows.nodes_known and value.numel() else None
        relation = next((key for key in path if is_relation(key)), None)
        if relation is not None:
            source, target = ends_of(relation)
            type_ends = (self.rows.types.get(source, "N"), self.rows.types.get(target, "N"))
            return TensorSpec((2, symbol or "E"), value.dtype, "edges", limit=limit, ends=type_ends, ordered=ordered)
        mine = self.rows.graphs.get((name, *path), self.rows.sizes)
        symbol = next((s for s, size in mine.items() if s[0] == "E" and size == value.shape[1]), "E")
        return TensorSpec(
            (2, symbol), value.dtype, "edges", limit=limit, ends=self._ends(name, path, value), ordered=ordered
        )

    def _ends(self, name: str, path: Path, value: Tensor) -> tuple[str, str]:
        """Return the kinds of nodes that the rows of an edge index name."""
        if (name, *path) in self.rows.graphs:
            own = next(symbol for symbol in self.rows.graphs[name, *path] if symbol[0] == "N")
            return own, own
        if (name, *path) in self.rows.ends:
            return self.rows.ends[name, *path]
        if not self.rows.types:
            return "N", "N1" if "N1" in self.rows.sizes and not self.rows.ends else "N"
        kinds = {symbol: self.rows.sizes[symbol] for symbol in self.rows.types.values() if symbol[0] == "N"}
        kinds = kinds or {"N": self.rows.sizes.get("N", 0)}
        # Of several types that have enough nodes for a row of the index, the one with the fewest in small graphs.
        possible = [[s for s, size in kinds.items() if size > int(row.max())] if len(row) else [] for row in value]
        source, target = (min(some or kinds, key=lambda s: row_count(SMALL, s)) for some in possible)
        return source, target

    def _row_axes(self, name: str, value: Tensor) -> range:
        """Return the leading axes that are rows: all but the last, or only the first if layers or heads follow it."""
        count = value.dim()
        if name in ("adj", "adj_t") or (value.dtype == torch.bool and "mask" in name):
            return range(count)
        if count <= 2:
            return range(1)
        nodes = self.rows.sizes.get("N")
        if value.shape[-2] == nodes and self.rows.batched:
            return range(count - 1)
        of_nodes = [axis for axis in range(count - 1) if value.shape[axis] == nodes]
        if self.rows.node_axis in of_nodes:
            return range(self.rows.node_axis + 1)
        many = {size for symbol, size in self.rows.sizes.items() if symbol[0] in "NE"}
        if value.shape[0] in many and value.shape[-2] != nodes:
            return range(1)
        return range(of_nodes[0] + 1 if of_nodes and value.shape[-2] != nodes else count - 1)

    def _symbol(self, name: str, path: Path, value: Tensor, axis: int) -> str:
        size = value.shape[axis]
        if (
            axis == 0
            and self.rows.batched
            and ("mask" in name or (value.dim() > 2 and self.rows.sizes["N"] == value.shape[-2]))
        ):
            return "R0"  # [B, N, F]: the number of graphs
        if "hyperedge" in name and self.rows.sizes.get("N1") == size:
            return "N1"
        mine = self.rows.graphs.get((name, *path), {})
        first = "E" if "edge" in name else "N"
        order = sorted((*mine, *self.rows.sizes), key=lambda symbol: (symbol not in mine, symbol[0] != first))
        known = next((symbol for symbol in order if self.rows.sizes[symbol] == size), None)
        return known or self.rows.others.setdefault(size, f"R{len(self.rows.others) + 1}")
