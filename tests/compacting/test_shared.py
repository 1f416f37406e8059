"""Modules called twice: what one call keeps the other one keeps, and batch statistics are never taken for zeros."""

import pytest
import torch
from torch import nn

import upscale_fx
from tests.selection import every


class TwoCalls(nn.Module):
    """A batch norm whose second call is seen in pairs of channels, so that the calls want other layouts."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.other = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8)
        self.square, self.second, self.last = nn.Parameter(torch.randn(8, 8)), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.norm(self.second(self.other(self.norm(self.first(x).relu())) @ self.square))
        return self.last(h.view(-1, 4, 2).mean(-1, keepdim=True).expand(-1, -1, 2).flatten(1))


class ReadsStatistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.norm(self.first(x)) + self.norm.running_mean)


@pytest.mark.filterwarnings("ignore::upscale_fx.UpscaleWarning")
@pytest.mark.parametrize("seed", every(3, range(12)))
def test_a_batch_norm_called_twice(seed):
    torch.manual_seed(seed)
    model = TwoCalls().double().eval()
    with torch.no_grad():
        for weight in (parameter for parameter in model.parameters() if parameter.dim() > 1):
            weight[torch.rand(weight.shape[0]) < 0.4] = 0
            weight[:, torch.rand(weight.shape[1]) < 0.3] = 0
    x = torch.randn(9, 5, dtype=torch.float64)
    compiled = upscale_fx.compact(model, example_inputs=(x,))
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-10, atol=1e-10)


def test_statistics_that_are_zero_now_may_change():
    torch.manual_seed(0)
    model = ReadsStatistics().double()
    masked = upscale_fx.mask(model, 0.5, inputs=True)
    compiled = upscale_fx.compact(masked)
    for one in (masked, compiled):
        one.train()
        with torch.no_grad():
            one.get_submodule("norm").running_mean += 0.7
        one.eval()
    x = torch.randn(9, 5, dtype=torch.float64)
    torch.testing.assert_close(compiled(x), masked(x), rtol=1e-10, atol=1e-10)


class Permuted(nn.Module):
    """Two readers of the first call make its layout 0 2 1 3; the second call is read in place."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.p = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        h = self.norm(self.a(x))
        return self.p(self.norm(self.b(h) + self.c(h)))


def test_a_batch_norm_that_one_call_would_permute():
    torch.manual_seed(0)
    model = Permuted().double().eval()
    with torch.no_grad():
        model.norm.weight.normal_()
        model.norm.running_mean.normal_()
        model.b.weight[:, [1, 3]] = 0
        model.c.weight[:, [0, 2]] = 0
    x = torch.randn(9, 5, dtype=torch.float64)
    torch.testing.assert_close(upscale_fx.compact(model)(x), model(x), rtol=1e-10, atol=1e-10)
