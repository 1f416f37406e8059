"""Budgets: what is left costs what was asked, wherever channels are fine enough."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import HeteroConv, SAGEConv

import upscale_fx
from tests.comparison import parameters
from tests.masking.budgets import MODELS, WIDTH, calibration, graph, make, pruned
from tests.networks import Stack
from tests.selection import every, only
from upscale_fx import Budget
from upscale_fx.compiled.record.row_axes import rows_of_symbol
from upscale_fx.errors import AmountError
from upscale_fx.models import ViG

pytestmark = pytest.mark.usefixtures("double_precision")


class Normed(Stack):
    """With layer norms."""

    def __init__(self, *convs):
        super().__init__(*convs)
        self.norms = nn.ModuleList(nn.LayerNorm(conv.out_channels) for conv in convs[:-1])

    def run(self, x, *graph):
        for conv, norm in zip(self.convs, self.norms, strict=False):
            x = norm(conv(x, *graph)).relu()
        return self.convs[-1](x, *graph)


def held_bytes(model):
    return sum(v.numel() * v.element_size() for v in model.state_dict().values())


def one_step(name, hidden=48, size=parameters):
    """What one channel of every head costs at most: in all layers at once, at full width."""
    heads = MODELS[name][1]
    return size(make(name, hidden)) - size(make(name, hidden - heads))


# What is left --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sharing", "share"), only([("auto", 0.25)], [("auto", 0.5), ("auto", 0.25), ("always", 0.25), ("never", 0.25)])
)
@pytest.mark.parametrize("name", every(3, MODELS))
def test_parameters_are_those_of_the_budget(name, sharing, share):
    target = share * parameters(make(name))
    left = parameters(pruned(name, budget=Budget(params=share, sharing=sharing)))
    assert abs(left - target) <= max(0.02 * target, one_step(name))
    assert left <= 1.02 * target


@pytest.mark.parametrize("name", every(3, ["gcn", "sage", "jknet", "rgcn", "mlp"]))
def test_where_channels_are_fine_a_budget_is_met_within_two_percent(name):
    target = 0.3 * parameters(make(name, 80))
    assert parameters(pruned(name, 80, budget=Budget(params=0.3))) == pytest.approx(target, rel=0.02)


@pytest.mark.parametrize("name", every(3, MODELS))
def test_bytes_are_those_of_the_budget(name):
    dense = held_bytes(make(name))
    left = held_bytes(pruned(name, budget=Budget(bytes=0.4)))
    assert 0.4 * dense - max(0.008 * dense, one_step(name, size=held_bytes)) <= left <= 0.4 * 1.02 * dense


@pytest.mark.parametrize("name", every(3, MODELS, start=1))
def test_multiply_adds_are_those_of_the_budget(name):
    """Counted in the report's own units on the calibration graph."""
    x, edge_index = graph()
    rows = {"N": float(len(x)), "E": float(edge_index.shape[1])}
    dense, left = (
        sum(macs * rows_of_symbol(symbol, rows) for symbol, macs in size.macs.items())
        for report in [upscale_fx.report(pruned(name, budget=Budget(macs=0.4)))]
        for size in (report.before, report.after)
    )
    step = dense * one_step(name) / parameters(make(name))
    assert 0.4 * dense - max(0.008 * dense, 1.5 * step) <= left <= 0.4 * 1.02 * dense


def test_numbers_are_shares_or_absolute():
    dense = parameters(make("sage"))
    assert parameters(pruned("sage", budget=Budget(params=dense // 4))) == parameters(
        pruned("sage", budget=Budget(params=dense // 4 / dense))
    )


@pytest.mark.parametrize(("symbols", "expected"), [
    ("N", 10), ("E+N", 40), ("B*N", 20), ("2N", 20), ("N+1", 11), ("*", None), ("call", 1), ("7B*3N", 420),
])  # fmt: skip
def test_rows_of_symbols(symbols, expected):
    assert rows_of_symbol(symbols, {"N": 10, "E": 30, "B": 2}) == expected


@pytest.mark.parametrize("share", [1, 1.0, 10**9])
def test_a_budget_that_the_dense_model_keeps_takes_nothing(share):
    compiled = pruned("sage", budget=Budget(params=share))
    assert parameters(compiled) == parameters(make("sage"))
    assert upscale_fx.verify(make("sage"), compiled, calibration("sage")) <= 1e-10


@pytest.mark.parametrize("sharing", every(3, ["auto", "always", "never"]))
def test_the_least_possible_cost_is_told_and_can_be_had(sharing):
    with pytest.raises(AmountError, match="cannot be met: with one channel left everywhere") as told:
        pruned("sage", budget=Budget(params=0.001, sharing=sharing))
    least = int(str(told.value).split("still costs ")[1].split(" params")[0].replace(",", ""))
    assert parameters(pruned("sage", budget=Budget(params=least, sharing=sharing))) <= 1.02 * least
    with pytest.raises(AmountError, match="cannot be met"):
        pruned("sage", budget=Budget(params=0.9 * least, sharing=sharing))


def test_constrained_is_sharing_always():
    always, constrained = (
        pruned("sage", **options)
        for options in ({"budget": Budget(params=0.3, sharing="always")},
                        {"budget": Budget(params=0.3), "constrained": True})
    )  # fmt: skip
    for name, value in always.state_dict().items():
        assert torch.equal(value, constrained.state_dict()[name])


def test_sharing_always_gives_all_readers_one_set():
    masked = upscale_fx.mask(
        make("sage"), budget=Budget(params=0.3, sharing="always"), calibration=calibration("sage"), progress=False
    )
    for conv in list(masked.convs)[1:]:
        left, right = ((layer.weight != 0).any(dim=0) for layer in (conv.lin_l, conv.lin_r))
        assert torch.equal(left, right)


def test_what_is_ignored_keeps_everything():
    ignored = pruned("sage", budget=Budget(params=0.6), ignore="convs.1.lin_l")
    assert [e.asked for e in upscale_fx.report(ignored).entries if e.name == "convs.1.lin_l"] == [0]
    assert parameters(ignored) == pytest.approx(0.6 * parameters(make("sage")), rel=0.03)


def test_raw_features_go_too_where_they_may():
    with pytest.raises(AmountError, match="inputs=True"):
        pruned("gcn", 16, budget=Budget(params=0.03))
    compiled = pruned("gcn", 16, budget=Budget(params=0.03), inputs=True)
    assert parameters(compiled) <= 0.03 * 1.02 * parameters(make("gcn", 16))


@pytest.mark.parametrize("unit", ["params", "bytes"])
def test_without_calibration_magnitudes_decide(unit):
    compiled = upscale_fx.prune(make("sage"), budget=Budget(**{unit: 0.3}))
    assert parameters(compiled) == pytest.approx(0.3 * parameters(make("sage")), rel=0.03)


def test_a_stream_of_batches():
    batches = [graph(seed=seed) for seed in range(3)]
    model = make("sage")
    compiled = upscale_fx.prune(model, budget=Budget(params=0.3), calibration=iter(batches), progress=False)
    assert parameters(compiled) == pytest.approx(0.3 * parameters(model), rel=0.02)


def test_layer_norms_hold_their_channels():
    torch.manual_seed(0)
    model = Normed(SAGEConv(WIDTH, 48), SAGEConv(48, 48), SAGEConv(48, 5)).eval()
    compiled = upscale_fx.prune(model, budget=Budget(params=0.7), calibration=graph(), progress=False)
    assert parameters(compiled) == pytest.approx(0.7 * parameters(model), rel=0.02)
    with pytest.raises(AmountError, match=r"still costs [\d,]+ params of") as told:
        upscale_fx.prune(model, budget=Budget(params=0.1), calibration=graph(), progress=False)
    least = int(str(told.value).split("still costs ")[1].split(" params")[0].replace(",", ""))
    assert least > 48 * WIDTH  # the first layer stays whole


class Heterogeneous(nn.Module):
    def __init__(self):
        super().__init__()
        relations = [("user", "buys", "item"), ("item", "bought", "user"), ("user", "knows", "user")]
        widths = {"user": 6, "item": 9}
        self.first = HeteroConv({r: SAGEConv((widths[r[0]], widths[r[2]]), 40) for r in relations})
        self.second = HeteroConv({r: SAGEConv(40, 4) for r in relations})

    def forward(self, x, edges):
        x = {kind: value.relu() for kind, value in self.first(x, edges).items()}
        return self.second(x, edges)["item"]


@pytest.mark.parametrize("unit", ["params", "macs"])
def test_heterogeneous_models(unit):
    torch.manual_seed(0)
    model = Heterogeneous().eval()
    kinds = {"user": 200, "item": 300}
    x = {"user": torch.randn(200, 6), "item": torch.randn(300, 9)}
    edges = {
        r: torch.stack([torch.randint(kinds[r[0]], (900,)), torch.randint(kinds[r[2]], (900,))])
        for r in [("user", "buys", "item"), ("item", "bought", "user"), ("user", "knows", "user")]
    }
    compiled = upscale_fx.prune(
        model, budget=Budget(**{unit: 0.5}), calibration=(x, edges), example_inputs=(x, edges), progress=False
    )
    report = upscale_fx.report(compiled)
    if unit == "params":
        assert report.after.parameters == pytest.approx(0.5 * report.before.parameters, rel=0.03)
    assert parameters(compiled) < 0.6 * parameters(model)


@pytest.mark.parametrize("unit", only(["macs"], ["params", "macs"]))
def test_vision_gnn(unit):
    torch.manual_seed(0)
    model = ViG(7, width=24, depth=2, neighbours=4, image=16).eval()
    images = torch.randn(120, 3, 16, 16)
    compiled = upscale_fx.prune(
        model, budget=Budget(**{unit: 0.6}), calibration=(images,), example_inputs=(images[:2],), progress=False
    )
    size = upscale_fx.report(compiled)
    before, after = (
        s.parameters if unit == "params" else sum(n * rows_of_symbol(k, {"B": 120}) for k, n in s.macs.items())
        for s in (size.before, size.after)
    )
    assert after == pytest.approx(0.6 * before, rel=0.03)


# Exact, the same every time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "sharing"), every(5, [
    ("gcn", "auto"), ("sage", "auto"), ("sage", "always"), ("sage", "never"), ("gatv2", "auto"),
    ("transformer", "never"), ("jknet", "auto"), ("residual", "auto"), ("gat", "auto"), ("rgcn", "auto"),
]))  # fmt: skip
def test_pruned_is_exactly_masked(name, sharing):
    options = {"budget": Budget(params=0.3, sharing=sharing), "calibration": calibration(name), "progress": False}
    masked, compiled = (f(make(name), **options) for f in (upscale_fx.mask, upscale_fx.prune))
    assert upscale_fx.verify(masked, compiled, calibration(name)) <= 1e-10
    again = upscale_fx.prune(make(name), **options).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in compiled.state_dict().items())
