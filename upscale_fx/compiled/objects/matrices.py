"""Sparse matrices as graphs: the edges that their entries are, and matrices made from edges.

A sparse ``adj_t`` has a row per target and a column per source. Its entry ``(i, j)`` is the edge ``j -> i``, and the
value of the entry is the weight of this edge. Edges are in the order in which the matrix stores its entries.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.index import ptr2index
from torch_geometric.typing import SparseTensor

from upscale_fx.compiled.prepared import PreparedGraph
from upscale_fx.errors import InputError

#: The layouts of torch that are taken. ``RAW`` is a COO matrix whose entries may be in any order.
LAYOUTS = {torch.sparse_coo: "coo", torch.sparse_csr: "csr", torch.sparse_csc: "csc"}
RAW = "raw"

#: What a graph takes in place of a matrix.
EDGES, WEIGHTS, NODES, TARGETS, SOURCES = "edge_index", "edge_weight", "num_nodes", "num_targets", "num_sources"


def is_matrix(value: Any) -> bool:
    """Whether a value is a sparse matrix of torch: two sparse axes, and none of batches."""
    if not isinstance(value, Tensor) or value.layout not in LAYOUTS:
        return False
    if value.layout == torch.sparse_coo:
        return value.sparse_dim() == 2
    return value.dim() - value.dense_dim() == 2


def holds_matrices(value: Any) -> bool:
    """Whether a value is a dictionary of sparse matrices, such as ``adj_t_dict``."""
    return isinstance(value, Mapping) and bool(value) and all(map(is_matrix, value.values()))


def layout_of(value: Any) -> str:
    """Return the layout of a matrix, or of the matrices of a dictionary.

    Raises:
        InputError: the matrices of a dictionary have several layouts.
    """
    if isinstance(value, Mapping):
        layouts = sorted({layout_of(item) for item in value.values()})
        if len(layouts) > 1:
            raise InputError(
                f"the sparse matrices of a dictionary have the layouts {', '.join(layouts)}; give all of them one, "
                f"such as adj_t.to_sparse_csr()"
            )
        return layouts[0]
    layout = LAYOUTS[value.layout]
    return RAW if layout == "coo" and not value.is_coalesced() else layout


def parts_of(value: Any, layout: str | None = None, square: bool | None = None) -> dict[str, Any]:
    """Return the edges, weights and numbers of nodes of a matrix, or dictionaries of these.

    Args:
        value: a matrix, or a dictionary of matrices.
        layout: how entries are sorted; by default as they are stored.
        square: whether to give one number of nodes; by default if all matrices have as many rows as columns.

    Raises:
        InputError: entries are given twice, or a matrix should be square and is not.
    """
    if hasattr(type(value), "matrix_parts"):  # one that stands for its edges in a trace
        parts: dict[str, Any] = value.matrix_parts(square)
        return parts
    if isinstance(value, Mapping):
        is_square = all(map(_is_square, value.values())) if square is None else square
        items = {key: parts_of(item, layout, is_square) for key, item in value.items()}
        return {name: {key: part[name] for key, part in items.items()} for name in _names(is_square)}
    rows, columns = value.shape[:2]
    if square and rows != columns:
        raise InputError(
            f"a sparse matrix has shape {list(value.shape)}, but this graph was traced with one that has as many rows "
            f"as columns"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its sparse matrices experimental
        row, column, weights = _entries(value, layout or layout_of(value))
    counts = {NODES: rows} if square or (square is None and rows == columns) else {TARGETS: rows, SOURCES: columns}
    return {EDGES: torch.stack([column, row]), WEIGHTS: weights, **counts}


def _is_square(matrix: Any) -> bool:
    rows, columns = matrix.shape[:2]
    return rows is columns or (not hasattr(type(matrix), "matrix_parts") and rows == columns)


def _names(square: bool) -> tuple[str, ...]:
    return (EDGES, WEIGHTS, NODES) if square else (EDGES, WEIGHTS, TARGETS, SOURCES)


def _entries(matrix: Tensor, layout: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows, columns and values of the entries, in the order of a layout."""
    own = layout_of(matrix)
    if own != layout and not (own == "coo" and layout == RAW):
        if own == RAW:
            matrix = matrix.coalesce()
        matrix = {"csr": Tensor.to_sparse_csr, "csc": Tensor.to_sparse_csc}.get(layout, _to_coo)(matrix)
    if matrix.layout == torch.sparse_csr:
        return ptr2index(matrix.crow_indices()).long(), matrix.col_indices().long(), matrix.values()
    if matrix.layout == torch.sparse_csc:
        return matrix.row_indices().long(), ptr2index(matrix.ccol_indices()).long(), matrix.values()
    if own == RAW and layout == RAW and matrix.coalesce()._nnz() < matrix._nnz():
        raise InputError("a sparse matrix has entries that are given twice; pass adj.coalesce()")
    indices = matrix._indices()
    return indices[0], indices[1], matrix._values()


def _to_coo(matrix: Tensor) -> Tensor:
    return matrix.to_sparse(layout=torch.sparse_coo).coalesce()


def matrix_of(layout: str, parts: Mapping[str, Any]) -> Any:
    """Return the matrix, or dictionary of matrices, of some parts; weights that are missing are 1.

    For proxies it is what their tracer makes of them.
    """
    edges = parts[EDGES]
    if isinstance(edges, Mapping):
        return {
            key: matrix_of(layout, {name: part[key] for name, part in parts.items() if key in part}) for key in edges
        }
    maker: Callable[..., Any] | None = getattr(getattr(edges, "tracer", None), "matrix", None)
    if maker is not None:
        return maker(layout, parts)
    rows = parts[NODES] if NODES in parts else parts.get(TARGETS)
    columns = parts[NODES] if NODES in parts else parts.get(SOURCES)
    weights = parts.get(WEIGHTS)
    rows = _largest(edges[1]) if rows is None else rows
    columns = _largest(edges[0]) if columns is None else columns
    weights = torch.ones(edges.shape[1], device=edges.device) if weights is None else weights
    return made_matrix(edges[1], edges[0], weights, rows, columns, layout)


def _largest(index: Tensor) -> int:
    return int(index.max()) + 1 if index.numel() else 0


def made_matrix(row: Tensor, column: Tensor, weights: Tensor, rows: int, columns: int, layout: str) -> Tensor:
    """Return the sparse matrix ``[rows, columns]`` of entries ``[E]``, sorted if its layout requires it."""
    size = (rows, columns, *weights.shape[1:])
    key = {"csr": row * columns + column, "coo": row * columns + column, "csc": column * rows + row}.get(layout)
    if key is not None and bool((key[1:] < key[:-1]).any()):
        order = key.argsort(stable=True)
        row, column, weights = row[order], column[order], weights[order]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its sparse matrices experimental
        if layout == "csr":
            pointer = torch._convert_indices_from_coo_to_csr(row, rows)
            return torch.sparse_csr_tensor(pointer, column, weights, size, check_invariants=False)
        if layout == "csc":
            pointer = torch._convert_indices_from_coo_to_csr(column, columns)
            return torch.sparse_csc_tensor(pointer, row, weights, size, check_invariants=False)
        indices, coalesced = torch.stack([row, column]), True if layout == "coo" else None
        return torch.sparse_coo_tensor(indices, weights, size, check_invariants=False, is_coalesced=coalesced)


def pointer_of(index: Tensor, count: int) -> Tensor:
    """Return where the entries of each row begin, ``[count + 1]``, for the rows of sorted entries.

    Raises:
        InputError: the entries are not sorted.
    """
    if index.numel() and bool((index[1:] < index[:-1]).any()):
        raise InputError(
            "this graph was traced with a sparse matrix whose entries are sorted, and reads where each row of it "
            "begins; pass a sparse matrix, or an edge_index sorted by target"
        )
    return torch._convert_indices_from_coo_to_csr(index, count)


def edges_given_instead(value: Any, like: Any) -> dict[str, Any] | None:
    """Return an ``edge_index``, or a dictionary of them, as the parts of a matrix; None if it is something else.

    Args:
        value: the argument.
        like: ``torch.Tensor`` or ``dict``, whichever the traced argument was.
    """
    if like is dict:
        items = list(value.values()) if isinstance(value, Mapping) else []
        return {EDGES: dict(value)} if items and all(map(_is_edge_index, items)) else None
    return {EDGES: value} if _is_edge_index(value) else None


def _is_edge_index(value: Any) -> bool:
    if not isinstance(value, Tensor):
        return isinstance(value, PreparedGraph)
    integral = not value.is_floating_point() and value.dtype != torch.bool
    return integral and value.layout == torch.strided and value.dim() == 2 and value.shape[0] == 2


def why_refused(value: Any) -> str:
    """Why a sparse value is not taken as a graph, and what to pass instead, for messages; empty if it may be."""
    if isinstance(value, SparseTensor):
        return (
            "is a torch_sparse.SparseTensor, with which PyG's layers compute other things than with torch's matrices; "
            "pass adj_t.to_torch_sparse_csr_tensor(), or edge_index and edge_weight, to the model and to upscale_fx"
        )
    if isinstance(value, Tensor) and value.layout != torch.strided:
        return (
            f"is sparse ({value.layout}), and not as the matrix of a graph; pass an adjacency matrix "
            f"(adj_t.to_sparse_csr()) or an edge_index of shape [2, E]"
        )
    return ""


def random_entries(
    sources: int, targets: int, count: int, generator: torch.Generator, loops: bool, layout: str
) -> Tensor:
    """Return edges ``[2, E]`` for the entries of an example matrix: none twice if there are enough, in its order.

    The first and the last row have an entry where there are two, and so has the diagonal if ``loops`` are wanted.
    """
    place = torch.arange(targets * sources)
    row, column = place // sources, place % sources
    possible = place if loops else place[row != column]
    wanted = [(targets - 1) * sources, sources - 1, *([sources + 1] if loops and min(targets, sources) > 1 else [])]
    first = torch.tensor([key for key in dict.fromkeys(wanted) if bool((possible == key).any())], dtype=torch.long)
    rest = possible[~torch.isin(possible, first)]
    chosen = torch.cat([first, rest[torch.randperm(len(rest), generator=generator)]])[:count]
    if len(chosen) < count and len(possible):  # more edges than a matrix has room for
        again = torch.randint(len(possible), (count - len(chosen),), generator=generator)
        chosen = torch.cat([chosen, possible[again]])
    row, column = chosen // sources, chosen % sources
    order = {"csc": column * targets + row, RAW: torch.randperm(len(chosen), generator=generator)}.get(layout, chosen)
    order = order.argsort(stable=True)
    return torch.stack([column[order], row[order]])
