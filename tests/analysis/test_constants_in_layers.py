"""Layers that take constants in: new biases, shared parameters, heads, numbers not finite; and the pass itself."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GATv2Conv, GCNConv, SAGEConv
from torch_geometric.utils import add_self_loops

import upscale_fx
from tests.analysis.constant_channels import GRAPHS, IN, OUT, WIDTH, Net, prune_rows, ready, same, shape
from tests.comparison import stored
from upscale_fx.passes import CompactChannels, FoldConstants, ShareStructure

pytestmark = [
    pytest.mark.usefixtures("seeded"),
    pytest.mark.filterwarnings("ignore:no channel could be removed"),
]


# Layers that must not be changed, or are changed with care -----------------------------------------------------------


def test_a_layer_without_bias_gets_one():
    model = prune_rows(ready(Net(nn.Linear(IN, WIDTH), torch.sigmoid, nn.Linear(WIDTH, OUT, bias=False))), "layer")
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert stored(compiled) == {"layer.weight", "layer.bias", "head.weight", "head.bias_folded"}
    assert compiled.get_parameter("head.bias_folded").requires_grad
    model.head.requires_grad_(False)
    assert not upscale_fx.compact(model).get_parameter("head.bias_folded").requires_grad


def test_a_layer_called_with_names():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(IN, WIDTH), nn.Linear(WIDTH, OUT)

        def forward(self, x):
            return F.linear(input=self.a(x).sigmoid(), weight=self.b.weight)

    model = prune_rows(ready(Named()), "a")
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, "b.weight") == (OUT, 4)


class Products(nn.Module):
    """Weights ``[in, out]``: a matrix product without a bias, and one with."""

    def __init__(self, with_bias):
        super().__init__()
        self.a, self.weight = nn.Linear(IN, WIDTH), nn.Parameter(torch.randn(WIDTH, OUT))
        self.bias = nn.Parameter(torch.randn(OUT)) if with_bias else None

    def forward(self, x):
        h = self.a(x).sigmoid()
        return torch.matmul(h, self.weight) if self.bias is None else torch.addmm(self.bias, h, self.weight)


@pytest.mark.parametrize("with_bias", [True, False])
def test_matrix_products(with_bias):
    model = prune_rows(ready(Products(with_bias)), "a")
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, "weight") == (4, OUT)
    added = stored(compiled) - {"a.weight", "a.bias", "weight", "bias"}
    assert added == (set() if with_bias else {"bias_folded"})


class Shared(nn.Module):
    """Readers that share a weight or a bias, or are called twice."""

    def __init__(self, kind):
        super().__init__()
        self.a, self.b = nn.Linear(IN, WIDTH), nn.Linear(IN, WIDTH)
        self.first, self.second = nn.Linear(WIDTH, OUT), nn.Linear(WIDTH, OUT)
        self.kind = kind
        if kind == "weight":
            self.second.weight = self.first.weight
        if kind == "bias":
            self.second.bias = self.first.bias

    def forward(self, x):
        h, g = self.a(x).sigmoid(), self.b(x).sigmoid()
        if self.kind == "twice":
            return self.first(h) * self.first(g)
        if self.kind == "output":
            return self.first(h), self.first.bias
        return self.first(h) * self.second(g)


@pytest.mark.parametrize("kind", ["weight", "bias", "twice", "output"])
def test_shared_parameters_are_left_alone(kind):
    model = prune_rows(ready(Shared(kind)), "a")
    result = FoldConstants()(upscale_fx.trace(model))
    assert not result.modified
    compiled = upscale_fx.compact(model)
    x = GRAPHS[0][0]
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-10, atol=1e-10)


def test_parameters_that_share_memory_only_do_not_change_together():
    model = prune_rows(ready(Shared("")), "a")
    model.second.weight = nn.Parameter(model.first.weight.data)
    model.second.bias = nn.Parameter(model.first.bias.data)
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, "first.weight") == (OUT, 4)
    assert shape(compiled, "second.weight") == (OUT, WIDTH)


def test_residual_adds_keep_what_one_side_needs():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(IN, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.c, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, OUT)

        def forward(self, x):
            h = self.a(x).relu()
            h = h + self.b(h).relu()
            return self.head(h + self.c(h).sigmoid())

    model = ready(Residual())
    with torch.no_grad():
        model.a.weight[:5], model.b.weight[2:], model.c.weight[3:7] = 0, 0, 0
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, "head.weight") == (OUT, 6), "3 and 4 are constant in all three terms"


class Heads(nn.Module):
    """One weight reads two heads of four channels."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(IN, 8), nn.Linear(4, OUT)

    def forward(self, x):
        return self.head((self.a(x) - 0.5).relu().view(-1, 2, 4))


def test_one_weight_for_all_heads_takes_what_all_heads_agree_on():
    model = ready(Heads())
    with torch.no_grad():
        model.a.weight[[0, 1, 2, 4, 5]] = 0
        model.a.bias[[0, 1, 4, 5]] = torch.tensor(
            [0.7, 0.8, 0.7, 0.9], dtype=torch.float64
        )  # channels 0 and 1 are constant in both heads, but 1 is another number in each
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, "head.weight") == (OUT, 3)


def test_a_head_that_is_constant_is_read_where_the_other_is_not():
    """Also where the other happens to hold the same number in the first row."""
    model = ready(Heads())
    with torch.no_grad():
        model.a.weight[:4], model.a.bias[:4] = 0, -1  # constant 0 after the activation
        model.a.bias[4:] = 0
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, "head.weight") == (OUT, 4)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["weight", "bias", "above"])
def test_numbers_that_are_not_finite_do_not_spread(number, where):
    model = ready(Net(nn.Linear(IN, WIDTH)))
    with torch.no_grad():
        model.layer.weight[[1, 2, 5]] = 0
        model.layer.bias[[1, 2, 5]] = torch.tensor([0.5, -0.5, 1.0], dtype=torch.float64)
        target = {"weight": model.head.weight[1], "bias": model.head.bias, "above": model.layer.bias}[where]
        target[2] = number  # a constant 0 * inf, a bias, a constant that is not finite
    compiled = upscale_fx.compact(model)
    for one in GRAPHS:
        torch.testing.assert_close(compiled(*one), model(*one), rtol=1e-10, atol=1e-10, equal_nan=True)
    left = {"weight": 6, "bias": 8, "above": 6}
    assert shape(compiled, "head.weight") == (OUT, left[where])


def test_parameters_alone_are_not_multiplied_out():
    """What a model learns as the product of two parameters stays that."""

    class Query(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.a, self.b = nn.Parameter(torch.randn(1, WIDTH)), nn.Linear(WIDTH, OUT), nn.Linear(IN, OUT)

        def forward(self, x):
            return self.b(x) + self.a(self.query)

    assert not FoldConstants()(upscale_fx.trace(ready(Query()))).modified


# The pass and what it leaves behind ----------------------------------------------------------------------------------


def test_the_pass_is_idempotent_and_honest():
    model = prune_rows(ready(Net(GCNConv(IN, WIDTH), torch.sigmoid)), "layer.lin")
    traced = upscale_fx.trace(model)
    before = copy.deepcopy(traced.state_dict())
    first = FoldConstants()(traced)
    assert first.modified
    assert same(model, first.graph_module)
    assert all(torch.equal(value, before[key]) for key, value in traced.state_dict().items()), "never changes its input"
    again = FoldConstants()(first.graph_module)
    assert not again.modified
    assert again.graph_module is first.graph_module
    assert CompactChannels()(first.graph_module).modified
    untouched = upscale_fx.trace(ready(Net(GCNConv(IN, WIDTH))))
    assert FoldConstants()(untouched) == type(again)(untouched, False)


def test_a_compacted_model_is_compacted_once():
    model = prune_rows(ready(Net(SAGEConv(IN, WIDTH), torch.sigmoid)), "layer.lin_l", "layer.lin_r")
    compiled = upscale_fx.compact(model)
    again = upscale_fx.compact(compiled)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in compiled.state_dict().items()}
    assert same(model, again)
    pruned = upscale_fx.prune(compiled, 0.5)
    assert same(upscale_fx.mask(compiled, 0.5), pruned)


def test_a_folded_model_is_a_model_like_any_other():
    model = prune_rows(ready(Net(GATv2Conv(IN, 4, heads=2), torch.sigmoid)), "layer.lin_l")
    compiled = upscale_fx.compact(model)
    assert stored(compiled) <= set(upscale_fx.trace(model).state_dict())
    assert same(model, copy.deepcopy(compiled))
    floating = copy.deepcopy(compiled).to(torch.float32)
    x, edges = GRAPHS[1]
    torch.testing.assert_close(floating(x.float(), edges), model(x, edges).float(), rtol=1e-4, atol=1e-4)
    compiled.train()(*GRAPHS[0]).square().sum().backward()
    assert all(parameter.grad is not None for parameter in compiled.parameters())


def test_sizes_are_recognised_after_they_are_shared():
    """A layer asks for the number of nodes of its own input; sharing says that it is the same number."""

    class Looped(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.conv = nn.Linear(IN, WIDTH), SAGEConv(WIDTH, OUT, aggr="max")

        def forward(self, x, edge_index):
            edge_index, _ = add_self_loops(edge_index, num_nodes=x.size(0))
            return self.conv(self.a(x).sigmoid(), edge_index)

    model = prune_rows(ready(Looped()), "a")
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, "conv.lin_l.weight") == shape(compiled, "conv.lin_r.weight") == (OUT, 4)
    assert FoldConstants()(ShareStructure()(upscale_fx.trace(model)).graph_module).modified
