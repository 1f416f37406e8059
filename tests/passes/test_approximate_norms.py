"""``approximate_norms=True``: what it drops, and what it computes instead.

Its definition is written down once more here, on full-width tensors: the statistics of a norm are those of the channels
that are kept, ``kept`` being read off the rows of the compacted layer before the norm.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import LayerNorm, MessageNorm, PairNorm

import upscale_fx
from tests.comparison import assert_same
from tests.passes.normed import WIDTH, X
from tests.selection import every
from upscale_fx.compiled.module import record_of
from upscale_fx.passes import ApproximateNorms, FixStatistics

BATCH = torch.arange(30) // 11
EXAMPLE = (X, BATCH)


class Normed(nn.Module):
    """A layer, a norm, an activation, a layer."""

    def __init__(self, norm, apply, width=WIDTH):
        super().__init__()
        self.enter, self.norm, self.leave = nn.Linear(5, width), norm, nn.Linear(width, 3)
        self.apply_norm = apply

    def forward(self, x, batch):
        return self.leave(self.apply_norm(self.norm, self.enter(x), batch).relu())


def alone(norm, x, batch):
    return norm(x)


def batched(norm, x, batch):
    return norm(x, batch)


def by_graph(x, reduce):
    """One row per node: what ``reduce`` makes of the rows of its graph."""
    return torch.stack([reduce(x[graph == BATCH]) for graph in BATCH])


def layer(norm, h, k, share):
    out = (h - k.mean(1, keepdim=True)) / (k.var(1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    return out if norm.weight is None else out * norm.weight + norm.bias


def of_whole_graph(norm, h, k, share):
    centred = k - k.mean()
    return (h - k.mean()) / (centred.std(unbiased=False) + norm.eps) * norm.weight + norm.bias


def of_each_graph(norm, h, k, share):
    mean = by_graph(k, lambda rows: rows.mean()).unsqueeze(1)
    spread = by_graph((k - mean).square(), lambda rows: rows.mean()).unsqueeze(1)
    return (h - mean) / (spread + norm.eps).sqrt() * norm.weight + norm.bias


def pair(norm, h, k, share):
    h, k = h - h.mean(0), k - k.mean(0)
    return norm.scale * h / (norm.eps + share * k.square().sum(1).mean()).sqrt()


def pair_of_each_graph(norm, h, k, share):
    h, k = h - by_graph(h, lambda rows: rows.mean(0)), k - by_graph(k, lambda rows: rows.mean(0))
    return norm.scale * h / (norm.eps + share * by_graph(k, lambda rows: rows.square().sum(1).mean())[:, None]).sqrt()


def pair_of_each_node(norm, h, k, share):
    h, k = h - h.mean(0), k - k.mean(0)
    return norm.scale * h / (norm.eps + length(k, share))


def length(k, share):
    return share**0.5 * k.square().sum(1, keepdim=True).sqrt()


def standardised(norm, h, k, share):
    unbiased = WIDTH / (WIDTH - 1)
    return (h - k.mean(1, keepdim=True)) / (k.var(1, unbiased=False, keepdim=True) * unbiased + 1e-5).sqrt()


NORMS = {
    "layer norm": (nn.LayerNorm(WIDTH), alone, layer),
    "layer norm without weights": (nn.LayerNorm(WIDTH, elementwise_affine=False), alone, layer),
    "PyG node": (LayerNorm(WIDTH, mode="node"), batched, layer),
    "PyG graph": (LayerNorm(WIDTH), alone, of_whole_graph),
    "PyG graph, batch": (LayerNorm(WIDTH), batched, of_each_graph),
    "pair": (PairNorm(scale=1.5), alone, pair),
    "pair, batch": (PairNorm(scale=1.5), batched, pair_of_each_graph),
    "pair, each": (PairNorm(scale_individually=True), alone, pair_of_each_node),
    "normalize": (
        None,
        lambda _, x, batch: F.normalize(x, p=2.0, dim=-1),
        lambda _, h, k, share: h / length(k, share).clamp(min=1e-12),
    ),
    "normalize, eps": (
        None,
        lambda _, x, batch: F.normalize(x, eps=3.0),
        lambda _, h, k, share: h / length(k, share).clamp(min=3.0),
    ),
    "x / |x|": (
        None,
        lambda _, x, batch: x / (x.norm(dim=-1, keepdim=True) + 0.1),
        lambda _, h, k, share: h / (length(k, share) + 0.1),
    ),
    "standardised": (
        None,
        lambda _, x, batch: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt(),
        standardised,
    ),
    "root mean square": (
        None,
        lambda _, x, batch: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.1),
        lambda _, h, k, share: h / (k.square().mean(1, keepdim=True) + 0.1).sqrt(),
    ),
    "message": (
        MessageNorm(learn_scale=True),
        lambda norm, x, batch: x + norm(x, x.tanh()),
        lambda norm, h, k, share: (
            h + norm.scale * h.tanh() / length(k.tanh(), share).clamp(min=1e-12) * length(k, share)
        ),
    ),
}


@pytest.fixture(params=every(2, NORMS))
def case(request):
    norm, apply, definition = NORMS[request.param]
    return build(copy.deepcopy(norm), apply), definition


def build(norm, apply, width=WIDTH):
    torch.manual_seed(0)
    model = Normed(norm, apply, width).double().eval()
    for parameter in [] if norm is None else norm.parameters():
        nn.init.normal_(parameter)
    return model


def rows_kept(model, compiled, name="enter"):
    """Which outputs of a layer a compacted model still computes."""
    full = torch.cat([model.get_parameter(f"{name}.weight"), model.get_parameter(f"{name}.bias")[:, None]], 1)
    left = torch.cat([compiled.get_parameter(f"{name}.weight"), compiled.get_parameter(f"{name}.bias")[:, None]], 1)
    return (full[:, None] == left[None]).all(-1).any(1).nonzero().squeeze(1)


@pytest.mark.parametrize("amount", [0.25, 0.75])
def test_statistics_are_those_of_the_kept_channels(case, amount):
    model, definition = case
    compiled = upscale_fx.prune(model, amount, example_inputs=EXAMPLE, approximate_norms=True)
    kept = rows_kept(model, compiled)
    assert len(kept) == compiled.get_parameter("enter.weight").shape[0] == round((1 - amount) * WIDTH)
    masked = upscale_fx.mask(model, amount, example_inputs=EXAMPLE)
    hidden = model.enter(X)
    normed = definition(model.norm, hidden, hidden[:, kept], WIDTH / len(kept))
    assert_same(masked.leave(normed.relu()), compiled(*EXAMPLE))


def test_without_the_flag_everything_before_a_norm_stays(case):
    model, _ = case
    compiled = upscale_fx.prune(model, 0.5, example_inputs=EXAMPLE)
    assert len(rows_kept(model, compiled)) == WIDTH
    assert_same(upscale_fx.mask(model, 0.5, example_inputs=EXAMPLE)(*EXAMPLE), compiled(*EXAMPLE))
    assert "approximate: " not in str(upscale_fx.report(compiled))


def test_where_all_channels_are_kept_nothing_changes(case):
    model, _ = case
    compiled = upscale_fx.compact(model, example_inputs=EXAMPLE, approximate_norms=True)
    assert_same(model(*EXAMPLE), compiled(*EXAMPLE))
    assert not record_of(compiled).estimates
    traced = upscale_fx.trace(model, EXAMPLE)
    opened = ApproximateNorms()(traced)
    assert opened.modified
    assert_same(model(*EXAMPLE), opened.graph_module(*EXAMPLE))
    assert_same(model(*EXAMPLE), FixStatistics()(opened.graph_module).graph_module(*EXAMPLE))


def test_many_channels_that_are_alike_estimate_each_other_well(case):
    norm = case[0].norm
    if isinstance(norm, nn.LayerNorm | LayerNorm):
        norm = nn.LayerNorm(1500) if isinstance(norm, nn.LayerNorm) else LayerNorm(1500, mode=norm.mode)
    model = build(norm, case[0].apply_norm, width=1500)
    masked = upscale_fx.mask(model, 0.5, example_inputs=EXAMPLE)(*EXAMPLE)
    compiled = upscale_fx.prune(model, 0.5, example_inputs=EXAMPLE, approximate_norms=True)
    assert (masked - compiled(*EXAMPLE)).abs().max() < 0.05 * masked.abs().max()
    assert compiled.get_parameter("enter.weight").shape[0] == 750


def test_channels_kept_for_others_count_too():
    """Here the residual keeps them all, so that the statistics are those they were."""

    class PreNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.norm = nn.Linear(5, WIDTH), nn.LayerNorm(WIDTH)
            self.inner, self.leave = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

        def forward(self, x):
            h = self.enter(x)
            return self.leave(h + self.inner(self.norm(h).relu()))

    model = PreNorm().double().eval()
    options = {"ignore": "leave", "example_inputs": (X,)}
    compiled = upscale_fx.prune(model, 0.5, approximate_norms=True, **options)
    assert compiled.get_parameter("inner.weight").shape == (WIDTH, WIDTH // 2)
    assert_same(upscale_fx.mask(model, 0.5, **options)(X), compiled(X))


@pytest.mark.parametrize("name", ["normalize", "x / |x|", "pair", "pair, each"])
def test_channels_that_are_zero_are_dropped_without_a_trace(name):
    norm, apply, _ = NORMS[name]
    model = build(norm, apply)
    with torch.no_grad():
        model.enter.weight[::2], model.enter.bias[::2] = 0, 0
    compiled = upscale_fx.compact(model, example_inputs=EXAMPLE, approximate_norms=True)
    assert compiled.get_parameter("enter.weight").shape[0] == WIDTH // 2
    assert_same(model(*EXAMPLE), compiled(*EXAMPLE))


def mean(k):
    return k.mean(-1, keepdim=True)


def sums(k):
    return k.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("norm", "definition"),
    [
        (lambda h: F.layer_norm(h, (8,)), lambda h, k: (h - mean(k)) / (mean(k.square()) - mean(k) ** 2 + 1e-5).sqrt()),
        (lambda h: F.normalize(h, dim=-1), lambda h, k: h / (2 * sums(k.square())).sqrt()),
        (lambda h: h / (h.norm(dim=-1, keepdim=True) + 0.1), lambda h, k: h / ((2 * sums(k.square())).sqrt() + 0.1)),
        (
            lambda h: F.layer_norm(h, (3, 8)),
            lambda h, k: (h - k.mean((1, 2), True)) / (k.var((1, 2), correction=0, keepdim=True) + 1e-5).sqrt(),
        ),
    ],
    ids=["layer norm", "normalize", "by hand", "over heads"],
)
def test_heads_have_statistics_of_their_own(norm, definition):
    """Eight channels in each of three heads; the same ones of each head are masked."""

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.leave = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)

        def forward(self, x):
            return self.leave(norm(self.enter(x).view(-1, 3, 8)).flatten(1))

    torch.manual_seed(0)
    model = Heads().double().eval()
    kept = torch.tensor([0, 3, 4, 6])
    gone = torch.tensor([c for c in range(8) if c not in kept])
    with torch.no_grad():
        model.leave.weight.view(3, 3, 8)[..., gone] = 0
    compiled = upscale_fx.compact(model, example_inputs=(X,), approximate_norms=True)
    assert compiled.get_parameter("enter.weight").shape[0] == 12
    h = model.enter(X).view(-1, 3, 8)
    assert_same(model.leave(definition(h, h[..., kept]).flatten(1)), compiled(X))
