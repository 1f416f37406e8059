"""Verification: the difference of equal models, and what is wrong with others."""

import pytest
import torch
from torch import nn

import upscale_fx
from tests.reports.read_models import FAMILIES, INPUTS, few_families, seeded, tiny
from upscale_fx import VerificationError


@few_families
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_verify_returns_the_difference_of_equal_models(family, dtype, most):
    model = seeded(FAMILIES[family], 4, 16, 3).to(dtype)
    inputs = INPUTS[0].to(dtype), INPUTS[1]
    difference = upscale_fx.verify(upscale_fx.mask(model, 0.5), upscale_fx.prune(model, 0.5), inputs)
    assert isinstance(difference, float)
    assert 0 <= difference < most


def test_verify_names_output_and_difference_of_a_perturbed_model():
    model = tiny().double()
    compiled = upscale_fx.prune(model, 0.5)
    with torch.no_grad():
        compiled.get_parameter("convs.1.lin_r.weight")[0, 1] += 1e-3
    inputs = INPUTS[0].double(), INPUTS[1]
    with pytest.raises(VerificationError, match=r"output 0 .*by 0\.000\d+ .*allowed 1e-10") as caught:
        upscale_fx.verify(upscale_fx.mask(model, 0.5), compiled, inputs)
    assert isinstance(caught.value, AssertionError)
    assert upscale_fx.verify(upscale_fx.mask(model, 0.5), compiled, inputs, tolerance=0.1) < 0.1


class Two(nn.Module):
    """Two outputs, the second one spoilt by ``spoil``."""

    def __init__(self, spoil=lambda y, x: y):
        super().__init__()
        torch.manual_seed(0)
        self.lin, self.spoil = nn.Linear(4, 3), spoil

    def forward(self, x, edge_index):
        y = self.lin(x)
        return y, self.spoil(y * 2, x)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda y, x: y + 1, "output 1 .*on the example inputs: by "),
        (lambda y, x: y + float(x.size(0) != 9), r"output 1 .*graph of \d+ nodes"),
        (lambda y, x: y[:, :2], r"output 1 .*shape \[9, 3\] against \[9, 2\]"),
        (lambda y, x: y * torch.nan, "output 1"),
        (lambda y, x: torch.where(y > y.max() - 1e-6, torch.inf, y), "output 1"),
        (lambda y, x: None, "output"),
    ],
    ids=["values", "other sizes", "shape", "NaN", "infinite", "missing"],
)
def test_verify_finds_what_is_wrong(spoil, message):
    with pytest.raises(VerificationError, match=message):
        upscale_fx.verify(Two(), Two(spoil), INPUTS)


def test_verify_accepts_infinities_and_nans_that_both_models_give():
    def strange(y, x):
        return torch.stack([y / 0, y * torch.nan])

    assert upscale_fx.verify(Two(strange), Two(strange), INPUTS) == 0


def test_verify_leaves_everything_as_it_was():
    model, compiled = tiny(), upscale_fx.prune(tiny(), 0.5).train()
    model.convs[1].train()
    before, modes = torch.get_rng_state(), [m.training for m in (*model.modules(), *compiled.modules())]
    upscale_fx.verify(upscale_fx.mask(model, 0.5), compiled, INPUTS)
    assert torch.equal(torch.get_rng_state(), before)
    assert [m.training for m in (*model.modules(), *compiled.modules())] == modes
