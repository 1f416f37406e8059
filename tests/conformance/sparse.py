"""The rows of all layers again, with the graph as a sparse matrix instead of an ``edge_index``.

A row is taken if PyG itself computes it with a matrix. Its edges become the entries of a matrix of ones, of weights,
or of their weights if it has some; whatever else it gives per edge is put in the order of the entries.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tests.conformance import convs_a_f, convs_g_l, convs_m_r, convs_rgcn, convs_s_z
from tests.conformance.case import Case, Graph

ROWS = [*convs_a_f.CASES, *convs_g_l.CASES, *convs_m_r.CASES, *convs_rgcn.CASES, *convs_s_z.CASES]


def is_edges(value: Any) -> bool:
    """Whether an argument is an index ``[2, E]``."""
    return isinstance(value, Tensor) and value.dtype == torch.long and value.dim() == 2 and value.shape[0] == 2


def nodes_of(arguments: list[Any], graph: Graph) -> tuple[int, int]:
    """Numbers of targets and sources: those of a pair of features, or of all nodes."""
    if any(isinstance(value, tuple) and len(value) == 2 for value in arguments):
        return graph.targets, graph.nodes
    return graph.nodes, graph.nodes


def as_matrix(arguments: list[Any], graph: Graph, weighted: bool, layout: str) -> list[Any]:
    """The same arguments with a matrix; weights that belong to it leave their own argument."""
    edges = next(value for value in arguments if is_edges(value))
    rows, columns = nodes_of(arguments, graph)
    keys, order = (edges[1] * columns + edges[0]).sort(stable=True)
    kept = order[torch.cat([torch.tensor([True]), keys[1:] != keys[:-1]])]
    weights = next((v for v in arguments if isinstance(v, Tensor) and v.dim() == 1 and v.is_floating_point()), None)
    values = torch.ones(edges.shape[1], dtype=torch.float64)
    if weighted:
        values = weights if weights is not None else torch.linspace(0.3, 1.7, edges.shape[1], dtype=torch.float64)
    matrix = torch.sparse_coo_tensor(edges.flip(0)[:, kept], values[kept], (rows, columns), is_coalesced=True)
    matrix = matrix.to_sparse_csr() if layout == "csr" else matrix
    changed: list[Any] = []
    for value in arguments:
        per_edge = isinstance(value, Tensor) and len(value) == edges.shape[1]
        changed.append(matrix if value is edges else value[kept] if per_edge else value)
    return [
        None if weights is not None and old is weights else new for old, new in zip(arguments, changed, strict=True)
    ]


@dataclass(frozen=True)
class Sparse:
    """One configuration: a row, and how its matrix is made."""

    row: Case
    weighted: bool
    layout: str

    @property
    def name(self) -> str:
        """The test's name."""
        return f"{self.row.name}-{'weighted' if self.weighted else 'ones'}-{self.layout}"

    def arguments(self, graph: Graph) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of one call."""
        args, kwargs = self.row.arguments(replace(graph))
        values = as_matrix([*args, *kwargs.values()], graph, self.weighted, self.layout)
        named = dict(zip(kwargs, values[len(args) :], strict=True))
        return tuple(values[: len(args)]), {name: value for name, value in named.items() if value is not None}


def accepted(sparse: Sparse, graph: Graph) -> bool:
    """Whether PyG computes this with a matrix."""
    try:
        args, kwargs = sparse.arguments(graph)
        with torch.no_grad():
            sparse.row.make()(*args, **kwargs)
    except Exception:
        return False
    return True


def configurations(most: int = 6) -> list[Sparse]:
    """Rows of convolutions with one set of edges, twice: with ones and with weights; so many of every layer."""
    found: list[Sparse] = []
    for row in ROWS:
        args, kwargs = row.arguments(Graph())
        known = sum(sparse.row.module == row.module for sparse in found)
        one = sum(map(is_edges, [*args, *kwargs.values()])) == 1 and "size" not in kwargs
        if one and known < most and row.module not in REFUSED and row.expect != "refused":
            found += [Sparse(row, weighted, "csr" if len(found) % 6 < 4 else "coo") for weighted in (False, True)]
    return found


#: Layers that PyG itself does not compute with a matrix of torch in float64, or needs all edges of a mesh for.
REFUSED = {
    "ARMAConv", "ChebConv", "ClusterGCNConv", "DirGNNConv", "HypergraphConv", "MFConv", "RGCNConv", "WLConvContinuous",
    "MeshCNNConv",
}  # fmt: skip
