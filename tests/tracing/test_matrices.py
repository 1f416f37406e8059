"""Graphs that are sparse matrices: how they are held, what is done with them, and what a call may give instead."""

import pickle
from functools import partial

import pytest
import torch
from torch_geometric.nn import GATConv, GCNConv, GraphSAGE, SAGEConv, to_hetero
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import add_self_loops, is_sparse, remove_self_loops, spmm, to_edge_index

import upscale_fx
from tests.comparison import assert_same
from tests.selection import every
from tests.tracing import matrix_models as models

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC) tensor support is in beta"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),
    pytest.mark.filterwarnings("ignore:Converting sparse tensor to CSR format"),
    pytest.mark.filterwarnings("ignore::upscale_fx.UpscaleWarning"),
]
SIZES = ((9, 24, 0), (23, 70, 1), (40, 31, 2))
KINDS = ((9, 6, 20, 0), (21, 14, 40, 1), (13, 30, 50, 2))


def of(make, sizes=SIZES):
    return lambda: [make(*size) for size in sizes]


def with_pairs(nodes, count, seed):
    return *models.square(nodes, count, seed), torch.randint(nodes, (2, 13 + seed), generator=models.draw(seed))


def two(nodes, count, seed):
    return *models.square(nodes, count, seed), models.square(nodes, count + 5, seed + 7)[1]


def two_sides(*size):
    x, x_target, adj = models.bipartite(*size)
    return x, x_target, adj.to_sparse_csr()


HELD = {
    "arguments": (models.Net, of(models.square)),
    "max, coo": (lambda: models.Net(lambda i, o: SAGEConv(i, o, "max")), of(partial(models.square, layout="coo"))),
    "csc": (lambda: models.Net(SAGEConv), of(partial(models.square, layout="csc"))),
    "attention": (lambda: models.Net(GATConv), of(models.square)),
    "Data": (models.OfData, of(lambda *z: (models.data(*z),))),
    "Data with weights": (models.OfData, of(lambda *z: (models.data(*z, attr=True),))),
    "Data with both": (models.OfData, of(lambda *z: (models.data(*z, remove=False),))),
    "Batch": (models.OfGraphs, of(models.pair_of_graphs)),
    "edge_index": (models.NamedAsEdges, of(models.square)),
    "PyG's model": (lambda: GraphSAGE(8, 16, 3, 4, jk="cat"), of(models.square)),
    "pairs": (models.Links, of(with_pairs)),
    "two matrices": (models.TwoMatrices, of(two)),
    "list": (models.Sampled, of(models.sampled, ((12, 20, 0), (20, 30, 1), (31, 40, 2)))),
    "result": (models.ReturnsAttention, of(models.square)),
    "bipartite": (models.Bipartite, of(two_sides, ((11, 7, 20, 0), (23, 12, 60, 1), (30, 41, 50, 2)))),
    "no targets": (models.NoTargets, of(lambda *z: two_sides(*z)[::2], ((11, 7, 20, 0), (23, 12, 60, 1)))),
    "dictionary": (models.Typed, of(lambda *z: (models.typed(*z).x_dict, models.typed(*z).adj_t_dict), KINDS)),
    "HeteroData": (models.TypedData, of(lambda *z: (models.typed(*z),), KINDS)),
    "to_hetero": (
        lambda: to_hetero(GraphSAGE(8, 16, 2, 4), (["a", "b"], list(models.RELATIONS))),
        of(lambda *z: (models.typed(*z).x_dict, models.typed(*z).adj_t_dict), KINDS),
    ),
}


def dense(value):
    if isinstance(value, tuple):
        return tuple(map(dense, value))
    if isinstance(value, dict):
        return {key: dense(part) for key, part in value.items()}
    return value.to_dense() if value.layout != torch.strided else value


def run(model, call):
    with torch.no_grad():
        return dense(model(*call))


@pytest.mark.parametrize("name", every(4, HELD))
def test_a_matrix_is_taken_wherever_it_is_held(name):
    make, calls = HELD[name][0], HELD[name][1]()
    model = make().double().eval()
    traced = upscale_fx.trace(model, calls[0])
    masked = upscale_fx.mask(model, 0.5, example_inputs=calls[0])
    pruned = upscale_fx.prune(model, 0.5, example_inputs=calls[0])
    for call in calls:
        assert_same(run(model, call), run(traced, call), 1e-10, "traced")
        assert_same(run(masked, call), run(pruned, call), 1e-10, "pruned")
    again = pickle.loads(pickle.dumps(pruned))
    assert_same(run(masked, calls[-1]), run(again, calls[-1]), 1e-10, "pickled")
    upscale_fx.verify(masked, pruned, calls[0])


@pytest.mark.parametrize("name", ["arguments", "edge_index", "Data"])
def test_calibration_batches_hold_matrices(name):
    make, calls = HELD[name][0], HELD[name][1]()
    model = make().double().eval()
    batches = [call[0] if len(call) == 1 else call for call in calls[:2]]
    pruned = upscale_fx.prune(model, 0.5, calibration=batches)
    assert run(pruned, calls[2]).shape == run(model, calls[2]).shape
    assert "edge_weight" in str(list(pruned.graph.find_nodes(op="placeholder")))


def degrees(model, h, adj):
    total = torch.sparse.sum(adj, dim=1).to_dense().clamp(min=1e-6)
    return (adj @ h) / total.view(-1, 1)


def personalised(model, h, adj):
    adj, z = gcn_norm(adj, num_nodes=h.size(0))[0], h
    for _ in range(3):
        z = 0.9 * (adj @ z) + 0.1 * h
    return z


def as_edges(model, h, adj):
    edge_index, weights = to_edge_index(adj)
    return model.conv(h, edge_index.flip(0), weights)


def by_hand(model, h, adj):
    row, col = adj.indices()
    return torch.zeros_like(h).index_add(0, row, h[col] * adj.values().unsqueeze(-1))


def made_again(model, h, adj):
    values = adj.values().sigmoid()
    return torch.sparse_csr_tensor(adj.crow_indices(), adj.col_indices(), values, adj.size()) @ h


CODE = {
    "@": (lambda m, h, a: a @ h, "csr coo csc"),
    "matmul": (lambda m, h, a: a.matmul(h), "csr"),
    "torch.mm": (lambda m, h, a: torch.mm(a, h), "csr"),
    "torch.sparse.mm": (lambda m, h, a: torch.sparse.mm(a, h), "csr coo"),
    "torch.sparse.mm, amax": (lambda m, h, a: torch.sparse.mm(a, h, "amax"), "csr"),
    "torch.sparse.addmm": (lambda m, h, a: torch.sparse.addmm(h, a, h, beta=0.5, alpha=2.0), "csr"),
    "spmm mean": (lambda m, h, a: spmm(a, h, "mean"), "csr coo"),
    "spmm min": (lambda m, h, a: spmm(a, h, "min"), "csr"),
    "vector": (lambda m, h, a: h * (a @ h[:, 0]).view(-1, 1), "csr"),
    "t": (lambda m, h, a: a.t() @ h, "csr coo csc"),
    "transpose": (lambda m, h, a: a.transpose(0, 1) @ h, "csr"),
    "from the left": (lambda m, h, a: (h.t() @ a).t(), "csr"),
    "scaled": (lambda m, h, a: (a * 0.5) @ h, "csr coo"),
    "squared": (lambda m, h, a: (a @ a) @ h, "csr"),
    "with one from torch": (lambda m, h, a: ((a @ a) @ (a @ h)) + (a @ (a @ a)) @ h, "csr"),
    "twice": (lambda m, h, a: a @ (a @ h), "csr"),
    "entry by entry": (lambda m, h, a: (a * a) @ h, "coo"),
    "a + a.t()": (lambda m, h, a: (a + a.t()) @ h, "coo"),
    "to_dense": (lambda m, h, a: a.to_dense() @ h, "csr"),
    "to another layout": (lambda m, h, a: m.conv(h, a.to_sparse_csr()), "coo csc"),
    "coalesce": (lambda m, h, a: a.coalesce() @ h, "coo"),
    "softmax": (lambda m, h, a: torch.sparse.mm(torch.sparse.softmax(a, 1), h), "coo"),
    "degrees": (degrees, "coo"),
    "sum": (lambda m, h, a: h * a.sum(), "csr coo"),
    "number of entries": (lambda m, h, a: (a @ h) * a._nnz() / a.size(0), "csr"),
    "where rows begin": (lambda m, h, a: (a @ h) / (a.crow_indices().diff().view(-1, 1) + 1), "csr"),
    "made again": (made_again, "csr"),
    "by hand": (by_hand, "coo"),
    "as edges": (as_edges, "csr coo csc"),
    "self loops": (lambda m, h, a: gcn_norm(add_self_loops(a)[0], add_self_loops=False)[0] @ h, "csr coo"),
    "no self loops": (lambda m, h, a: remove_self_loops(a)[0] @ h, "csr"),
    "normalised": (personalised, "csr coo"),
    "a branch on the kind": (lambda m, h, a: a @ h if is_sparse(a) else m.conv(h, a), "csr"),
    "attention over a.t()": (lambda m, h, a: m.attention(h, a.t()), "coo csc"),
}


@pytest.mark.parametrize(
    ("name", "layout"), every(8, [(name, layout) for name, (_, layouts) in CODE.items() for layout in layouts.split()])
)
def test_what_models_do_with_a_matrix(name, layout):
    model = models.Between(CODE[name][0]).double().eval()
    calls = [models.square(*size, layout) for size in (*SIZES, (5, 0, 3))]
    traced = upscale_fx.trace(model, calls[0])
    masked = upscale_fx.mask(model, 0.5, example_inputs=calls[0])
    pruned = upscale_fx.optimize(upscale_fx.compact(masked, example_inputs=calls[0]))
    for call in calls:
        assert_same(run(model, call), run(traced, call), 1e-10, "traced")
        assert_same(run(masked, call), run(pruned, call), 1e-10, "pruned")


@pytest.mark.parametrize("conv", [GCNConv, SAGEConv])
def test_products_are_fused(conv):
    model = models.Net(conv).double().eval()
    compiled = upscale_fx.prune(model, 0.5, example_inputs=models.square(*SIZES[0]))
    called = [getattr(node.target, "__name__", "") for node in compiled.graph.nodes]
    assert called.count("spmm") == 2
    assert "scatter" not in called
