"""Calls of models traced with a sparse matrix: with other layouts, with an ``edge_index``, and refused ones."""

import pytest
import torch
from torch import nn
from torch_geometric.data import Data

import upscale_fx
from tests.comparison import assert_same
from tests.tracing import matrix_models as models

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC) tensor support is in beta"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),
    pytest.mark.filterwarnings("ignore:Converting sparse tensor to CSR format"),
]


@pytest.fixture(scope="module")
def pair():
    model = models.Net().double().eval()
    example = models.square(9, 24, 0)
    return (
        upscale_fx.mask(model, 0.5, example_inputs=example),
        upscale_fx.prune(model, 0.5, example_inputs=example),
    )


def edges_of(adj):
    adj = adj.to_sparse_coo().coalesce()
    return adj.indices().flip(0), adj.values()


@pytest.mark.parametrize("layout", ["csr", "coo", "csc"])
def test_any_layout(pair, layout):
    x, adj = models.square(23, 70, 1, layout)
    assert_same(pair[0](x, models.square(23, 70, 1)[1]), pair[1](x, adj))


def test_entries_given_twice_are_added(pair):
    x, adj = models.square(23, 70, 1, "coo")
    twice = torch.cat([adj.indices(), adj.indices()], dim=1), torch.cat([adj.values() / 4, adj.values() * 3 / 4])
    assert_same(pair[0](x, adj), pair[1](x, torch.sparse_coo_tensor(*twice, adj.shape)))


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        lambda model, x, edges, w: model(x, edges, w),
        lambda model, x, edges, w: model(x, edge_index=edges, edge_weight=w),
        lambda model, x, edges, w: model(x, adj_t=edges, edge_weight=w),
        lambda model, x, edges, w: model(x, edges, w, x.size(0)),
        lambda model, x, edges, w: model(x, upscale_fx.prepare(model, edges, x.size(0), edge_weight=w)),
    ],
)
def test_edges_and_weights(pair, call, shuffled):
    x, adj = models.square(23, 70, 1)
    edges, weights = edges_of(adj)
    order = torch.randperm(70) if shuffled else torch.arange(70)
    with torch.no_grad():
        assert_same(pair[0](x, adj), call(pair[1], x, edges[:, order], weights[order]))


def test_a_matrix_that_is_prepared(pair):
    x, adj = models.square(23, 70, 1)
    with torch.no_grad():
        assert_same(pair[0](x, adj), pair[1](x, upscale_fx.prepare(pair[1], adj)))


@pytest.mark.parametrize(
    "call",
    [
        lambda model, x, edges: model(x, edges),
        lambda model, x, edges: model(x=x, adj_t=edges),
        lambda model, x, edges: model(x, edge_index=edges),
    ],
)
def test_edges_alone_have_weights_of_one(pair, call):
    x, adj = models.square(23, 70, 1, "coo")
    ones = torch.sparse_coo_tensor(adj.indices(), torch.ones(70, dtype=torch.float64), adj.shape).coalesce()
    assert_same(pair[0](x, ones.to_sparse_csr()), call(pair[1], x, edges_of(adj)[0]))


def test_data_with_edges_for_a_matrix():
    calls = [models.data(*size) for size in ((9, 24, 0), (23, 70, 1))]
    model = models.OfData().double().eval()
    compiled = upscale_fx.compact(model, example_inputs=(calls[0],))
    edges, _ = edges_of(calls[1].adj_t)
    assert_same(model(calls[1]), compiled(calls[1].x, edges))


def test_types_with_edges_for_matrices():
    example, other = models.typed(9, 6, 20, 0), models.typed(13, 30, 50, 2)
    model = models.Typed().double().eval()
    compiled = upscale_fx.compact(model, example_inputs=(example.x_dict, example.adj_t_dict))
    found = {key: edges_of(adj) for key, adj in other.adj_t_dict.items()}
    edges, weights = ({key: part[place] for key, part in found.items()} for place in (0, 1))
    assert_same(model(other.x_dict, other.adj_t_dict), compiled(other.x_dict, edges, weights))


def test_sizes_that_edges_do_not_tell():
    model = models.NoTargets().double().eval()
    x, _, adj = models.bipartite(11, 7, 20, 0)
    compiled = upscale_fx.compact(model, example_inputs=(x, adj.to_sparse_csr()))
    edges, weights = edges_of(adj)
    assert_same(model(x, adj.to_sparse_csr()), compiled(x, edges, weights, num_targets=7))
    with pytest.raises(upscale_fx.InputError, match="'num_targets' is missing: a sparse matrix has it as a size"):
        compiled(x, edges, weights)


def test_a_model_that_a_training_step_changes():
    model = models.Net().double()
    x, adj = models.square(9, 24, 0)
    compiled = upscale_fx.prune(model, 0.5, example_inputs=(x, adj)).train()
    compiled(x, adj).square().sum().backward()
    assert all(parameter.grad is not None for parameter in compiled.parameters())


def test_a_rectangle_is_refused_where_a_square_was_traced(pair):
    x, _, adj = models.bipartite(11, 7, 20, 0)
    with pytest.raises(
        upscale_fx.InputError, match=r"has shape \[7, 11\], but this graph was traced with one that has"
    ):
        pair[1](x, adj)


def test_something_else_is_refused(pair):
    x, _ = models.square(9, 24, 0)
    with pytest.raises(upscale_fx.InputError, match="'adj_t' must be a sparse matrix or an edge_index, and is a str"):
        pair[1](x=x, adj_t="edges")
    with pytest.raises(upscale_fx.InputError, match="must be a sparse matrix or an edge_index"):
        pair[1](x=x, adj_t=torch.eye(9))


class Embedded(nn.Module):
    """Reads the values of a matrix as types of edges."""

    def __init__(self):
        super().__init__()
        self.types, self.lin = nn.Embedding(3, 16), nn.Linear(16, 4)

    def forward(self, x, adj):
        edges = self.types(adj.values())
        return self.lin(x.new_zeros(x.size(0), 16).index_add(0, adj.indices()[0], edges.to(x.dtype)))


def test_values_that_are_no_weights_must_be_given():
    x, adj = models.square(9, 24, 0, "coo")
    typed = torch.sparse_coo_tensor(adj.indices(), torch.arange(24) % 3, adj.shape).coalesce()
    model = Embedded().double().eval()
    traced = upscale_fx.trace(model, (x, typed))
    assert_same(model(x, typed), traced(x, typed))
    with pytest.raises(upscale_fx.InputError, match="'edge_weight' is missing: the model reads the values"):
        traced(x, edges_of(adj)[0])


class Pointer(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x, adj):
        return self.lin2(self.lin1(x).relu() * adj.crow_indices().diff().view(-1, 1))


def test_unsorted_edges_are_refused_where_the_order_counts():
    x, adj = models.square(9, 24, 0)
    model = Pointer().double().eval()
    traced = upscale_fx.trace(model, (x, adj))
    edges, _ = edges_of(adj)
    assert_same(model(x, adj), traced(x, edges))
    with pytest.raises(upscale_fx.InputError, match="pass a sparse matrix, or an edge_index sorted by target"):
        traced(x, edges.flip(1))


def test_examples_that_are_refused():
    model, (x, adj) = models.Net().double(), models.square(9, 24, 0)
    index = torch.cat([edges_of(adj)[0], edges_of(adj)[0]], dim=1)
    twice = torch.sparse_coo_tensor(index, torch.ones(48, dtype=torch.float64), (9, 9))
    with pytest.raises(upscale_fx.InputError, match=r"entries that are given twice; pass adj.coalesce\(\)"):
        upscale_fx.trace(model, (x, twice))
    with pytest.raises(upscale_fx.InputError, match="'x' is sparse"):
        upscale_fx.trace(model, (x.to_sparse(), adj))
    with pytest.raises(upscale_fx.InputError, match="'adj_t' is sparse"):
        upscale_fx.trace(model, (x, torch.eye(8, dtype=torch.float64).to_sparse_bsr((2, 2))))
    example = models.typed(9, 6, 20, 0)
    mixed = dict(example.adj_t_dict)
    first = next(iter(mixed))
    mixed[first] = mixed[first].to_sparse_coo()
    with pytest.raises(upscale_fx.InputError, match="the sparse matrices of a dictionary have the layouts coo, csr"):
        upscale_fx.trace(models.Typed().double(), (example.x_dict, mixed))


def test_data_that_holds_a_matrix_is_a_batch_of_arguments():
    model = models.Net().double().eval()
    compiled = upscale_fx.prune(model, 0.5, calibration=[models.data(9, 24, 0), models.data(23, 70, 1)])
    other = models.data(40, 31, 2)
    with torch.no_grad():
        assert_same(compiled(other.x, other.adj_t), compiled(other.x, edges_of(other.adj_t)[0]))
    assert isinstance(other, Data)
