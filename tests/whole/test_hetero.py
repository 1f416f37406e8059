"""Heterogeneous models: dictionaries keep their keys, and relations that nobody needs go, weights, messages and all."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import GATConv, GraphSAGE, to_hetero

import upscale_fx
from tests.comparison import assert_same, parameters
from tests.whole.two_kinds import RELATIONS, SIZES, Hetero, graph


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = GATConv(8, 8, heads=2, add_self_loops=False)
        self.out = GATConv(16, 4, add_self_loops=False)

    def forward(self, x, edge_index):
        return self.out(self.conv(x, edge_index).relu(), edge_index)


def agree(model, compiled, arguments):
    expected, found = model(*arguments), compiled(*arguments)
    assert not isinstance(expected, dict) or list(found) == list(expected), "the same order"
    assert_same(expected, found)


@pytest.mark.parametrize("returned", [None, "user", "item"])
def test_masked_and_pruned_agree_at_two_sizes(returned):
    model = Hetero(returned).double()
    example = graph(SIZES[0])
    compiled = upscale_fx.prune(model, 0.5, example_inputs=example)
    masked = upscale_fx.mask(model, 0.5, example_inputs=example)
    for seed, sizes in enumerate(SIZES, 1):
        agree(masked, compiled, graph(sizes, seed))
    assert parameters(compiled) < parameters(model)


def test_a_relation_that_nobody_needs_goes_with_its_weights_and_messages():
    """Items of the second layer are not returned, so its relation into items goes; both types' hidden values stay."""
    model = Hetero("user").double()
    compiled = upscale_fx.prune(model, 0.5, example_inputs=graph(SIZES[0]))
    names = set(compiled.state_dict())
    assert not any("second.convs.<user___buys___item>" in name for name in names)
    assert any("second.convs.<item___bought_by___user>" in name for name in names)
    assert all(any(f"first.convs.<{'___'.join(relation)}>" in name for name in names) for relation in RELATIONS)


def test_a_relation_whose_readers_are_zero_goes_too():
    """Nobody reads the hidden items: the first layer's relation into items goes."""
    model = Hetero("user").double()
    with torch.no_grad():
        model.second.convs[RELATIONS[1]].lin_l.weight.zero_()
    compiled = upscale_fx.compact(model, example_inputs=graph(SIZES[0]))
    assert not any("first.convs.<user___buys___item>" in name for name in compiled.state_dict())
    for seed, sizes in enumerate(SIZES, 1):
        agree(model, compiled, graph(sizes, seed))


@pytest.mark.parametrize("build", [lambda: GraphSAGE(8, 16, 2, 4), Attention], ids=["sage", "gat"])
def test_models_made_by_to_hetero(build):
    widths = {"user": 8, "item": 8}
    model = to_hetero(build(), (["user", "item"], RELATIONS), aggr="sum").double()
    example = graph(SIZES[0], widths=widths)
    compiled = upscale_fx.prune(model, 0.5, example_inputs=example)
    masked = upscale_fx.mask(model, 0.5, example_inputs=example)
    for seed, sizes in enumerate(SIZES, 1):
        agree(masked, compiled, graph(sizes, seed, widths))
    assert parameters(compiled) < parameters(model)


def test_report_and_diff_name_every_relation():
    compiled = upscale_fx.prune(Hetero().double(), 0.5, example_inputs=graph(SIZES[0]))
    names = [entry.name for entry in upscale_fx.report(compiled).entries]
    for relation in RELATIONS:
        assert f"second.convs.<{'___'.join(relation)}>.lin_l" in names
    assert "user___buys___item" in str(upscale_fx.diff(Hetero().double(), compiled))
