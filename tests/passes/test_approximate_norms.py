"""``approximate_norms=True``: what it drops, what it computes instead, and that nothing else changes.

Its definition is written down once more here, on full-width tensors: the statistics of a norm are those of the channels
that are kept, ``kept`` being read off the rows of the compacted layer before the norm.
"""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import LayerNorm, MessageNorm, PairNorm, SAGEConv
from torch_geometric.nn.models import GCN

import upscale_fx
from upscale_fx.compiled.module import record_of
from upscale_fx.passes import ApproximateNorms, FixStatistics

WIDTH = 24
DRAW = torch.Generator().manual_seed(0)
X, EDGES = torch.randn(30, 5, generator=DRAW, dtype=torch.float64), torch.randint(30, (2, 90), generator=DRAW)
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


# The definitions: ``h`` all channels, ``k`` those that are kept, ``share`` how many each kept one stands for ----------


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


@pytest.fixture(params=NORMS)
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


def assert_same(expected, found):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * max(1.0, float(expected.detach().abs().max())))


# What is computed ----------------------------------------------------------------------------------------------------


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


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


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
