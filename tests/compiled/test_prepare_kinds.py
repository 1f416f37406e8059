"""Prepared graphs of other kinds: bipartite, heterogeneous, batched, of indices, of random edges."""

import pytest
import torch
import torch_geometric.nn as gnn
from torch import nn
from torch_geometric.utils import dropout_edge

import upscale_fx
from tests import zoo
from tests.compiled.handles import EDGES, WEIGHTS, X, assert_identical, pruned
from tests.whole import two_kinds
from upscale_fx import InputError
from upscale_fx.compiled import functions
from upscale_fx.compiled.structure.modules import structure_of
from upscale_fx.passes import SplitStructure, WriteInPlace


class Bipartite(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = gnn.SAGEConv((5, 7), 16), gnn.SAGEConv((5, 16), 3)

    def forward(self, x, adj_index):
        return self.second((x[0], self.first(x, adj_index).relu()), adj_index)


def bipartite(sources, targets, edges):
    draw = torch.Generator().manual_seed(0)
    x = (torch.randn(sources, 5, generator=draw), torch.randn(targets, 7, generator=draw))
    return x, torch.stack([torch.randint(count, (edges,), generator=draw) for count in (sources, targets)])


def test_bipartite_graphs():
    compiled = upscale_fx.prune(Bipartite(), 0.5, example_inputs=bipartite(9, 6, 20))
    x, edges = bipartite(31, 12, 50)
    for nodes in ((31, 12), {"x[0]": 31, "x[1]": 12}):
        handle = upscale_fx.prepare(compiled, edges, nodes)
        assert_identical(compiled(x, handle), compiled(x, edges))
        assert handle.num_nodes == nodes
    with pytest.raises(InputError, match=r"several kinds of nodes; pass num_nodes=\(num_source, num_target\)"):
        upscale_fx.prepare(compiled, edges, 31)
    with pytest.raises(InputError, match=r"how many rows x\[1\] has.*num_nodes=\(num_source, num_target\)"):
        upscale_fx.prepare(compiled, edges)
    with pytest.raises(InputError, match=r"'adj_index'\[1\] names node 1[01], but there are 1[01] nodes"):
        upscale_fx.prepare(compiled, edges, (31, int(edges[1].max())))
    with pytest.raises(InputError, match=r"'x\[0\]' has 9 rows, but the graph was prepared for 31"):
        compiled((x[0][:9], x[1]), handle)


def test_heterogeneous_graphs():
    example = two_kinds.graph(two_kinds.SIZES[0])
    compiled = upscale_fx.prune(two_kinds.Hetero().double(), 0.5, example_inputs=example)
    for seed, sizes in enumerate(two_kinds.SIZES):
        x, edges = two_kinds.graph(sizes, seed)
        handle = upscale_fx.prepare(compiled, edges, sizes)
        assert handle.num_edges == 120
        assert_identical(compiled(x, handle), compiled(x, edges))
        assert_identical(compiled(x_dict=x, edge_index_dict=handle), compiled(x, edges))
    with pytest.raises(InputError, match=r"how many rows x_dict\['item'\] has.*num_nodes=\{'user': \.\.\., 'item'"):
        upscale_fx.prepare(compiled, edge_index_dict=edges, num_nodes={"user": 23})
    with pytest.raises(InputError, match=r"no use for 'users'; this model has 'user', 'item'"):
        upscale_fx.prepare(compiled, edges, {"users": 23})
    with pytest.raises(InputError, match=r"'edge_index_dict' is not built as it was"):
        upscale_fx.prepare(compiled, {("user", "buys", "item"): EDGES}, sizes)


def test_arguments_of_their_own_come_with_the_handle_or_with_the_call():
    """Only pooling reads ``batch``, so a handle need not hold it."""
    compiled, inputs = pruned("pool-all"), zoo.ZOO["pool-all"].inputs(23, 70, graphs=3)
    expected = compiled(**inputs)
    x, edge_index, batch = inputs.values()
    without, held = (upscale_fx.prepare(compiled, edge_index, 23, **more) for more in ({}, {"batch": batch}))
    assert_identical(compiled(x, without, batch), expected)
    assert_identical(compiled(x, held), expected)
    with pytest.raises(InputError, match=r"'batch' is missing: the prepared graph holds 'edge_index' only"):
        compiled(x, without)
    with pytest.raises(InputError, match=r"'batch' is given, but the prepared graph holds one"):
        compiled(x, held, batch)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.conv = nn.Embedding(9, 16), gnn.GCNConv(16, 3)

    def forward(self, x, edge_index):
        return self.conv(self.embed(x), edge_index)


def test_an_index_per_node_is_a_feature():
    tokens = torch.randint(9, (23,))
    compiled = upscale_fx.optimize(Tokens(), example_inputs=(tokens, EDGES))
    assert structure_of(compiled).arguments == ("edge_index",)
    assert_identical(compiled(tokens, upscale_fx.prepare(compiled, EDGES, 23)), compiled(tokens, EDGES))


class Noisy(nn.Module):
    """Draws edges at random; a graph prepared once must not keep one draw for ever."""

    def __init__(self):
        super().__init__()
        self.conv = gnn.GCNConv(12, 3)

    def forward(self, x, edge_index):
        noise = torch.randint_like(edge_index[0], 2).to(x.dtype) + torch.poisson(torch.ones_like(edge_index[0]).to(x))
        return self.conv(x, edge_index, noise)


class Dropped(Noisy):
    def forward(self, x, edge_index):
        fewer, _ = dropout_edge(edge_index, 0.5, training=True)
        return self.conv(x, fewer) + self.conv(x, edge_index)


@pytest.mark.parametrize("model", [Noisy, Dropped])
def test_what_draws_random_numbers_is_not_structure(model):
    compiled = upscale_fx.optimize(model().double())
    assert not {"randint_like", "poisson", "dropout_edge"} & set(structure_of(compiled).parts[0].summary.split(", "))
    handle = upscale_fx.prepare(compiled, EDGES, 23)
    assert not torch.equal(compiled(X, handle), compiled(X, handle))


class Summed(nn.Module):
    """A sum that inference writes over its first operand, which is structure."""

    def __init__(self):
        super().__init__()
        self.lin, self.conv = nn.Linear(3, 1), gnn.GraphConv(12, 3)

    def forward(self, x, edge_index, edge_weight, edge_attr):
        total = edge_weight * 2.0 + self.lin(edge_attr).view(-1)
        return self.conv(x, edge_index, total)


def test_inference_never_writes_over_a_prepared_graph():
    attributes = torch.randn(70, 3, dtype=torch.float64)
    inputs = (X, EDGES, WEIGHTS, attributes)
    written = WriteInPlace()(upscale_fx.trace(Summed().double(), inputs)).graph_module
    assert any(node.target is functions.add_into for node in written.graph.nodes)
    compiled = SplitStructure()(written).graph_module
    expected = compiled(*inputs)
    handle = upscale_fx.prepare(compiled, EDGES, 23, edge_weight=WEIGHTS)
    with torch.inference_mode():
        for _ in range(3):
            assert_identical(compiled(X, handle, edge_attr=attributes), expected)
