"""State that no output depends on, modes of parts, methods, hooks and TorchScript parts, together in one model."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

import upscale_fx
from upscale_fx import TraceError

X, E = torch.randn(9, 6, dtype=torch.float64), torch.randint(9, (2, 20))


class Net(nn.Module):
    def __init__(self, middle=None):
        super().__init__()
        self.a, self.b, self.drop, self.norm = GCNConv(6, 8), GCNConv(8, 3), nn.Dropout(0.5), nn.BatchNorm1d(8)
        self.middle = middle or nn.ReLU()
        self.register_buffer("mean", torch.zeros(8))

    def watch(self, h):
        pass

    def forward(self, x, edge_index):
        h = self.middle(self.norm(self.a(x, edge_index)))
        self.watch(h)
        return self.b(self.drop(h), edge_index)

    def encode(self, x, edge_index):
        return self.a(x, edge_index).relu()


class InPlace(Net):
    def watch(self, h):
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * h.mean(0))


class PartlyInside(Net):
    def watch(self, h):
        self.mean *= 0.9
        with torch.no_grad():
            self.mean += 0.1 * h.mean(0)


class Data(Net):
    def watch(self, h):
        self.mean.data = 0.9 * self.mean.data + 0.1 * h.mean(0)


class DataAgain(Net):
    def watch(self, h):
        self.mean.mul_(0.9)
        self.mean.data = self.mean.data + 0.1 * h.mean(0)


class Kept(Net):
    def watch(self, h):
        self.last, self.mean = h, self.mean * 0.9 + 0.1 * h.detach().mean(0)


@pytest.mark.parametrize("make", [InPlace, PartlyInside, Data, DataAgain, Kept], ids=lambda make: make.__name__)
@pytest.mark.parametrize("frozen", [True, False])
def test_observed_buffers_and_modes_of_parts(make, frozen):
    model = make().double()
    if frozen:
        model.norm.eval()
    traced = upscale_fx.trace(model, (X, E))
    assert [traced.norm.training, traced.drop.training] == [not frozen, True]
    assert upscale_fx.verify(model, traced, (X, E)) < 1e-10
    model.eval(), traced.eval()
    torch.testing.assert_close(traced(X, E), model(X, E), rtol=0, atol=1e-12)


def test_data_of_a_value_with_a_gradient_is_refused():
    class Replaced(Net):
        def watch(self, h):
            h.data = h.data * 2

    with pytest.raises(TraceError, match=r"'\.data' of a tensor is replaced"):
        upscale_fx.trace(Replaced().double().eval(), (X, E))


@pytest.mark.parametrize("freeze", [False, True])
def test_scripted_parts_in_models_whose_parts_have_modes(freeze):
    part = torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).double().eval())
    model = Net(torch.jit.freeze(part) if freeze else part).double()
    model.norm.eval()
    traced = upscale_fx.trace(model, (X, E))
    model.eval(), traced.eval()
    assert upscale_fx.verify(model, traced, (X, E)) < 1e-10


def test_hooks_of_the_model_are_for_forward_and_not_for_other_methods():
    model = Net().double().eval()
    model.register_forward_hook(lambda module, args, output: output * 2)
    torch.testing.assert_close(upscale_fx.trace(model, (X, E))(X, E), model(X, E))
    encoder = upscale_fx.trace(model, (X, E), method="encode")
    torch.testing.assert_close(encoder(X, E), model.encode(X, E))
