"""Describe the sparse matrices among example arguments: what their sizes count, and how they store their entries."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch.utils import _pytree as pytree
from torch_geometric.data.data import BaseData

from upscale_fx.compiled.objects.arguments import matrices_of
from upscale_fx.compiled.objects.matrices import EDGES, NODES, SOURCES, TARGETS, is_matrix
from upscale_fx.tracing.argument_names import ends_of, is_relation
from upscale_fx.tracing.example_rows import ExampleRows, Path
from upscale_fx.tracing.objects.apart import Apart


def learn_matrices(rows: ExampleRows, apart: Apart, typed: bool) -> None:
    """Learn the kinds of nodes that are the rows and columns of matrices.

    ``typed`` is for matrices by type of edges, of which the features have to be known first; the others are learned
    before all other arguments, as their sizes are sure.
    """
    for parts in matrices_of(apart.objects):
        names = {key: str(part) for key, part in parts.parts.items()}
        edges = apart.arguments[names[EDGES]]
        paths: list[Path] = [(key,) for key in edges] if isinstance(edges, dict) else [()]
        for path in paths:
            relation = bool(path) and is_relation(path[0])
            if relation is not typed:
                continue
            for place, name in enumerate([SOURCES, TARGETS]):
                count = _at(apart.arguments[names[NODES if NODES in names else name]], path)
                known = rows.types.get(ends_of(path[0])[place]) if relation else None
                if place and count not in _of_nodes(rows):
                    rows.sizes.setdefault("N1", count)  # the name of the targets of a bipartite graph
                symbol = known or rows.kind_of_nodes(count)
                rows.counts[(names[NODES if NODES in names else name], *path)] = symbol
                before = rows.ends.get((names[EDGES], *path), (symbol, symbol))
                rows.ends[(names[EDGES], *path)] = (before[0], symbol) if place else (symbol, symbol)
            rows.layouts[(names[EDGES], *path)] = parts.kind.layout


def _of_nodes(rows: ExampleRows) -> list[int]:
    return [size for symbol, size in rows.sizes.items() if symbol[0] == "N"]


def gives_matrices(batch: Any, names: Collection[str]) -> bool:
    """Whether a batch has sparse matrices among the arguments of these names, or, if it is a tuple, anywhere."""
    if isinstance(batch, BaseData | Mapping):
        batch = [batch[name] for name in names if name in batch]
    return any(map(is_matrix, pytree.tree_leaves(batch)))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    return value[path[0]] if path else value
