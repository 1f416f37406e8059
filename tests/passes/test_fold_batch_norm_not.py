"""Batch norms that stay."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GATConv, GCNConv

import upscale_fx
from tests.comparison import assert_same_outputs
from tests.passes.folded import GRAPHS, IN, WIDTH, Form, Normed, folded, norms, ready, sent
from tests.selection import every
from upscale_fx.passes import ShareStructure
from upscale_fx.passes.fold_batch_norm import FoldBatchNorm

pytestmark = pytest.mark.usefixtures("seeded")
KEPT = {
    "activation": lambda m, x, e: m.norm(m.a(x).relu()).relu(),
    "value read twice": lambda m, x, e: m.norm(h := m.a(x)) + h,
    "value returned": lambda m, x, e: (m.norm(h := m.a(x)), h)[0] * h.sum(),
    "added to itself": lambda m, x, e: m.norm((h := m.a(x)) + h).relu(),
    "multiplied by itself": lambda m, x, e: m.norm((h := m.a(x)) * h).relu(),
    "layer called twice": lambda m, x, e: m.norm(m.a(x)).relu() + m.a(x),
    "bias read twice": lambda m, x, e: m.norm(F.linear(x, m.a.weight) + m.p) + m.p,
    "weight read twice": lambda m, x, e: m.norm(m.a(x)) * m.a.weight.sum(),
    "one term cannot": lambda m, x, e: m.norm(m.a(x) + m.b(x).relu()),
    "a number is added": lambda m, x, e: m.norm(m.a(x) + 1),
    "both factors": lambda m, x, e: m.norm(torch.sigmoid(m.b(x)) * m.a(x)),
    "sum over edges": lambda m, x, e: m.norm(sent(m.a(x), e)),
    "mean over edges": lambda m, x, e: m.norm(sent(m.a(x), e, "mean")),
    "sum over channels": lambda m, x, e: m.norm(torch.stack([m.a(x), m.b(x)], dim=1).sum(dim=1)),
    "channels repeated": lambda m, x, e: m.norm(m.a(x)[:, :4].repeat(1, 2)),
    "channels read twice": lambda m, x, e: m.norm(torch.cat([h := m.a(x)[:, :4], h], dim=-1)),
    "read by another too": lambda m, x, e: m.c(h := m.norm(m.a(x).relu())) * h.sum(),
    "read by layers that share": lambda m, x, e: F.linear(h := m.norm(m.a(x).relu()), m.w) + F.linear(h.relu(), m.w),
    "raw input": lambda m, x, e: m.norm(x[:, :WIDTH]).relu(),
}


@pytest.mark.parametrize("shared", [True, False], ids=["one node a parameter", "one node a read"])
@pytest.mark.parametrize("name", every(2, KEPT))
def test_forms_that_stay(name, shared):
    traced = upscale_fx.trace(ready(Form(KEPT[name])))
    result = FoldBatchNorm()(ShareStructure()(traced).graph_module if shared else traced)
    assert not result.modified
    assert len(norms(result.graph_module)) == 1


def test_a_shift_that_aggregation_would_count_stays():
    assert norms(folded(ready(Normed(GCNConv(IN, WIDTH, bias=False))))) == ["norm"]
    model = ready(Normed(GCNConv(IN, WIDTH, bias=False)))
    with torch.no_grad():
        model.norm.running_mean.zero_()
        model.norm.bias.zero_()
    assert not norms(folded(model))  # there is only a scale
    assert_same_outputs(model, folded(model), GRAPHS)


@pytest.mark.parametrize(("reduce", "left"), [("sum", []), ("mean", []), ("max", ["norm"]), ("min", ["norm"])])
def test_a_scale_goes_through_what_is_linear(reduce, left):
    model = ready(Form(lambda m, x, e: m.norm(sent(m.a(x), e, reduce))))
    with torch.no_grad():
        model.norm.weight[::2] *= -1
        model.norm.running_mean.zero_()
        model.norm.bias.zero_()
    assert norms(folded(model)) == left
    assert_same_outputs(model, folded(model), GRAPHS)


def test_a_bias_that_exists_takes_the_shift():
    model = Form(lambda m, x, e: m.norm(m.a(x) + m.b(x)))
    model.a.bias = None
    compiled = folded(ready(model))
    assert {name for name, _ in compiled.named_parameters()} == {"a.weight", "b.weight", "b.bias"}


def test_a_bias_that_is_also_the_shift_stays():
    model = ready(Form(lambda m, x, e: m.norm(m.a(x)) + m.norm(x[:, :WIDTH]).relu()))
    model.a.bias = model.norm.bias
    assert norms(folded(model)) == ["norm", "norm"]


def test_batch_statistics_stay():
    def without_statistics(width):
        return nn.BatchNorm1d(width, track_running_stats=False)

    assert norms(folded(ready(Normed(GCNConv(IN, WIDTH), norm=without_statistics)))) == ["norm"]


def test_attention_stays_where_logits_read_the_same_values():
    model = ready(Normed(GATConv(IN, 4, heads=2)))
    compiled = folded(model)
    assert norms(compiled) == ["norm"]
    assert_same_outputs(model, compiled, GRAPHS)
