"""What the refit promises: never worse, dead and equal channels free of charge, zeros and shared weights left alone."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv, SAGEConv

import upscale_fx
from tests.masking.refitted import HIDDEN, OUT, WIDTH, Checked, columns, graph, refitted, two
from tests.networks import FAMILIES
from tests.selection import every
from upscale_fx.masking.reconstruction import solve
from upscale_fx.masking.reconstruction.moments import Moments
from upscale_fx.models import SAGE

# Never worse ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", every(3, FAMILIES))
def test_no_error_is_larger_than_without_refit(family):
    torch.manual_seed(1)
    model, given = family(WIDTH, 16, OUT).double().eval(), graph(300)
    for amount in (0.25, 0.75):
        masked, _ = refitted(model, given, amount, ridge=solve.RIDGE, kind=Checked)
        dense = model(*given)
        without = upscale_fx.mask(model, amount, calibration=given, criterion="l2", refit=False)
        assert (masked(*given) - dense).norm() < (without(*given) - dense).norm()


def test_solutions_are_never_worse_whatever_the_moments():
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        rows, count = (4, 12) if seed % 2 else (60, 12)  # singular and regular
        x = torch.randn(rows, 1, count, generator=draw, dtype=torch.float64)
        lacking = torch.randn(rows, 1, 3, generator=draw, dtype=torch.float64)
        weight = torch.randn(1, count, 3, generator=draw, dtype=torch.float64)
        moments = Moments.zeros(1, count, 3)
        moments.add(x, lacking)
        kept = torch.rand(1, count, 1, generator=draw) < 0.5
        found = solve.fit(*solve.normal_equations(moments, weight), kept.expand(1, count, 3))
        target = x[:, 0] @ weight[0] + lacking[:, 0]
        error, before = ((x[:, 0] @ w[0] - target).norm() for w in (found, weight * kept))
        assert error <= before * (1 + 1e-12)
        assert not (found * ~kept).any()


def test_layers_that_read_what_the_dense_model_computes_and_lose_nothing_stay():
    torch.manual_seed(0)
    model, given = SAGE(WIDTH, 16, OUT).double().eval(), graph()
    last = [name for name, _ in model.named_modules() if name.startswith("convs.")][-1].split(".")[1]
    masked = upscale_fx.mask(model, {"*": 0.0, f"convs.{last}": 0.5}, calibration=given)
    for name, value in masked.named_parameters():
        same = torch.equal(value, model.get_parameter(name))
        assert same != name.startswith(f"convs.{last}."), name


# What is free of charge ----------------------------------------------------------------------------------------------


class Wide(nn.Module):
    """A hidden layer of 16 behind which a linear layer reads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(WIDTH, 16), nn.Linear(16, OUT)

    def forward(self, x, edge_index):
        return self.last(self.first(x).relu())


def relative(masked, model, given):
    with torch.no_grad():
        dense = model(*given)
        return float((masked(*given) - dense).norm() / dense.norm())


def test_dead_and_constant_channels_go_and_the_bias_takes_over():
    model = Wide().double().eval()
    with torch.no_grad():
        model.first.weight[:8] = 0.0
        model.first.bias[:8] = torch.tensor([-1.0] * 4 + [3.0] * 4)
    given = graph()
    masked = upscale_fx.mask(model, 0.5, calibration=given)
    assert columns(masked.last).tolist() == [False] * 8 + [True] * 8
    assert relative(masked, model, given) < 1e-3
    assert relative(upscale_fx.mask(model, 0.5, calibration=given, refit=False), model, given) > 0.1


def test_one_of_two_copies_goes_free_of_charge():
    model = Wide().double().eval()
    with torch.no_grad():
        model.first.weight[8:], model.first.bias[8:] = model.first.weight[:8], model.first.bias[:8]
    given = graph()
    masked = upscale_fx.mask(model, 0.5, calibration=given)
    kept = columns(masked.last)
    assert (kept[:8] ^ kept[8:]).all()
    assert relative(masked, model, given) < 1e-3


# What is left alone --------------------------------------------------------------------------------------------------


def test_zeros_of_a_sparse_model_stay():
    model, given = two(SAGEConv), graph()
    with torch.no_grad():
        for layer in (model.last.lin_l, model.last.lin_r):
            layer.weight[torch.rand(layer.weight.shape) < 0.3] = 0.0
    masked, plan = refitted(model, given, ridge=solve.RIDGE, kind=Checked)
    assert not plan.notes
    for layer in ("lin_l", "lin_r"):
        before, after = (net.last.get_submodule(layer).weight for net in (model, masked))
        assert not after[before == 0].any()
        assert not torch.equal(after[after != 0], before[after != 0])


def test_where_zeros_are_too_many_to_keep_weights_stay_and_a_note_says_so(monkeypatch):
    monkeypatch.setattr(solve, "MOST", 0.0)
    model, given = two(GCNConv), graph()
    with torch.no_grad():
        model.last.lin.weight[torch.rand(OUT, HIDDEN) < 0.3] = 0.0
    masked, plan = refitted(model, given)
    assert list(plan.notes.values()) == ["single entries of its weights are zero, in different places for every output"]
    kept = columns(masked.last.lin)
    assert torch.equal(masked.last.lin.weight[:, kept], model.last.lin.weight[:, kept])
    assert not masked.last.lin.weight[:, ~kept].any()


def test_weights_that_something_else_reads_stay():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, OUT)

        def forward(self, x, edge_index):
            return self.last(self.first(x).tanh()) + self.last.weight.square().sum()

    torch.manual_seed(0)
    model, given = Tied().double().eval(), graph()
    masked, plan = refitted(model, given)
    kept = columns(masked.last)
    assert torch.equal(masked.last.weight[:, kept], model.last.weight[:, kept])
    assert "something else reads its weights too" in plan.notes.values()
