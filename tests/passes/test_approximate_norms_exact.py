"""Approximate norms: what is left alone, and what comes after."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import PairNorm, SAGEConv
from torch_geometric.nn.models import GCN

import upscale_fx
from tests.comparison import assert_same, parameters
from tests.passes.normed import EDGES, WIDTH, X
from upscale_fx.compiled.module import record_of
from upscale_fx.passes import ApproximateNorms

# What is left alone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mix",
    [
        lambda x, h: h.exp() / h.exp().sum(-1, keepdim=True),
        lambda x, h: h * h.mean(-1, keepdim=True),
        lambda x, h: torch.cat([h - h.mean(-1, keepdim=True), h.mean(-1, keepdim=True)], -1),
        lambda x, h: h.tanh() / h.norm(p=1, dim=-1, keepdim=True),
        lambda x, h: h - h.amax(-1, keepdim=True),
        lambda x, h: torch.cat([F.normalize(x), F.layer_norm(x, (5,)), h], -1),
    ],
    ids=["softmax", "gate", "mean returned", "L1", "maximum", "norms of inputs"],
)
def test_what_is_no_norm_of_hidden_channels_stays_exact(mix):
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter = nn.Linear(5, WIDTH)
            self.leave = nn.Linear(mix(X.float(), self.enter(X.float())).shape[-1], 3)

        def forward(self, x):
            return self.leave(mix(x, self.enter(x)))

    model = Mixing().double().eval()
    options = {"example_inputs": (X,), "inputs": True}
    compiled = upscale_fx.prune(model, 0.5, approximate_norms=True, **options)
    assert_same(upscale_fx.mask(model, 0.5, **options)(X), compiled(X))
    assert not record_of(compiled).estimates


def test_a_model_without_norms_is_compacted_as_ever():
    torch.manual_seed(0)
    model = GCN(5, 16, 3, 3, norm="batch_norm").double().eval()
    plain = upscale_fx.prune(model, 0.5, example_inputs=(X, EDGES))
    flagged = upscale_fx.prune(model, 0.5, example_inputs=(X, EDGES), approximate_norms=True)
    assert flagged.code == plain.code
    torch.testing.assert_close(dict(flagged.state_dict()), dict(plain.state_dict()), rtol=0, atol=0)
    assert not ApproximateNorms()(upscale_fx.trace(model, (X, EDGES))).modified


# What comes after ----------------------------------------------------------------------------------------------------


class Graph(nn.Module):
    """Layers of PyG with norms between them, one of them shared, and dropout."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([SAGEConv(5, 16, normalize=True), SAGEConv(16, 16), SAGEConv(16, 3)])
        self.norm, self.pair = nn.LayerNorm(16), PairNorm()

    def forward(self, x, edge_index):
        x = self.norm(self.convs[0](x, edge_index)).relu()
        x = F.dropout(self.norm(self.pair(self.convs[1](x, edge_index))).relu(), 0.0, training=self.training)
        return self.convs[2](x, edge_index)


@pytest.fixture
def pruned():
    torch.manual_seed(0)
    model = Graph().double().eval()
    return model, upscale_fx.prune(model, 0.5, approximate_norms=True)


def test_a_graph_network_gets_smaller(pruned):
    model, compiled = pruned
    exact = upscale_fx.prune(model, 0.5)
    assert parameters(compiled) < parameters(exact) < parameters(model)
    with pytest.raises(upscale_fx.VerificationError):
        upscale_fx.verify(upscale_fx.mask(model, 0.5), compiled, (X, EDGES))
    assert upscale_fx.verify(upscale_fx.mask(model, 0.5), compiled, (X, EDGES), tolerance=0.5) > 1e-6


def test_the_report_names_what_is_approximate(pruned):
    lines = [line for line in str(upscale_fx.report(pruned[1])).splitlines() if line.startswith("approximate: ")]
    assert len(lines) == 4
    assert any("layer_norm (norm, " in line and "statistics of the 12 of 16 channels" in line for line in lines)
    assert upscale_fx.report(pruned[1]).approximate == [line.removeprefix("approximate: ") for line in lines]


def test_only_plain_operations_are_left(pruned):
    targets = [node.target for node in pruned[1].graph.nodes if node.op == "call_function"]
    assert not any(getattr(target, "__module__", None) == "upscale_fx.compiled.statistics" for target in targets)
    assert F.layer_norm in targets


def test_it_is_compacted_and_copied_like_any_other(pruned):
    _, compiled = pruned
    expected = compiled(X, EDGES)
    for again in (
        upscale_fx.compact(compiled),
        upscale_fx.compact(compiled, approximate_norms=True),
        copy.deepcopy(compiled),
        pickle.loads(pickle.dumps(compiled)),
    ):
        assert_same(expected, again(X, EDGES))
        assert parameters(again) == parameters(compiled)
        assert record_of(again).estimates == record_of(compiled).estimates
        assert "approximate: " in str(upscale_fx.report(again))
    single = copy.deepcopy(compiled).float()(X.float(), EDGES)
    torch.testing.assert_close(single.double(), expected, rtol=1e-3, atol=1e-4)


def test_it_trains(pruned):
    compiled = pruned[1].train()
    assert_same(copy.deepcopy(compiled).eval()(X, EDGES), compiled(X, EDGES))
    compiled(X, EDGES).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in compiled.parameters())


def test_pruned_again_it_is_exact_unless_asked(pruned):
    _, compiled = pruned
    masked = upscale_fx.mask(compiled, 0.5)
    exact = upscale_fx.prune(compiled, 0.5)
    assert upscale_fx.verify(masked, exact, (X, EDGES)) < 1e-10
    smaller = upscale_fx.prune(compiled, 0.5, approximate_norms=True)
    assert parameters(smaller) < parameters(exact)
    assert record_of(smaller).estimates.keys() == record_of(compiled).estimates.keys()
    assert {one.channels for one in record_of(smaller).estimates.values()} == {16}, "the width it once had"
