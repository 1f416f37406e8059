"""Layers on sparse matrices as PyG computes them: traced, masked and compacted, each compared with the layer."""

from collections import Counter

import pytest
import torch
from torch_geometric.nn import ClusterGCNConv

import upscale_fx
from tests.comparison import assert_same
from tests.conformance.case import Graph
from tests.conformance.sparse import Sparse, accepted, as_matrix, configurations
from tests.selection import first_of_each

EXAMPLE = Graph()
COMPARED = (Graph(23, 70, 3, 11, seed=1), Graph(40, 31, 5, 17, seed=2))
TAKEN = configurations()

pytestmark = pytest.mark.filterwarnings(
    "ignore::upscale_fx.UpscaleWarning",
    "ignore:Sparse CSR tensor support is in beta",
    "ignore:Sparse invariant checks are implicitly disabled",
    "ignore:Converting sparse tensor to CSR format",
)


def dense(value):
    """A result with dense tensors in place of sparse ones."""
    if isinstance(value, tuple):
        return tuple(map(dense, value))
    return value.to_dense() if isinstance(value, torch.Tensor) and value.layout != torch.strided else value


def run(model, sparse: Sparse, graph):
    args, kwargs = sparse.arguments(graph)
    torch.manual_seed(3)
    with torch.no_grad():
        return dense(model(*args, **kwargs))


@pytest.mark.parametrize(
    "sparse", first_of_each(TAKEN, key=lambda sparse: sparse.row.module, step=4), ids=lambda sparse: sparse.name
)
def test_layer(sparse):
    if not accepted(sparse, EXAMPLE):
        pytest.skip("PyG itself refuses a matrix here")
    model = sparse.row.make()
    args, kwargs = sparse.arguments(EXAMPLE)
    examples = {"example_inputs": args or None, "example_kwargs": kwargs or None}
    fused = upscale_fx.optimize(upscale_fx.trace(model, **examples))
    for graph in COMPARED:
        assert_same(run(model, sparse, graph), run(fused, sparse, graph), 1e-10, "fused")
    if sparse.row.expect == "nothing":
        return
    masked = upscale_fx.mask(model, 0.5, inputs=True, **examples)
    compacted = upscale_fx.compact(masked, **examples)
    for graph in COMPARED:
        assert_same(run(masked, sparse, graph), run(compacted, sparse, graph), 1e-10, "compacted")


@pytest.mark.slow
def test_pyg_takes_matrices_in_so_many_of_these_configurations():
    taken = Counter(accepted(sparse, EXAMPLE) for sparse in TAKEN)
    assert taken[True] >= 200, taken


@pytest.mark.parametrize("layout", ["csr", "coo"])
def test_a_layer_that_computes_degrees_in_float32(layout):
    """With a matrix in float64, PyG's own ClusterGCNConv fails."""
    model = ClusterGCNConv(8, 6, diag_lambda=0.5)

    def arguments(graph):
        x, adj = as_matrix([graph.x, graph.edge_index], graph, True, layout)
        return x.float(), adj.float()

    traced = upscale_fx.trace(model, arguments(EXAMPLE))
    with torch.no_grad():
        for graph in COMPARED:
            call = arguments(graph)
            assert_same(model(*call), traced(*call), 1e-5)
