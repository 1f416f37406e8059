"""Models that train otherwise than they evaluate are compiled for evaluation only."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch_geometric.nn import GATConv, GCNConv

import upscale_fx
from tests.whole.refusals import EDGES, X, refused
from upscale_fx import ModeError, UpscaleWarning


class OtherInTraining(nn.Module):
    """Training adds a layer, so one graph cannot serve both modes."""

    def __init__(self):
        super().__init__()
        self.conv, self.noise, self.head = GCNConv(6, 16), nn.Linear(16, 16), GCNConv(16, 3)

    def forward(self, x, edge_index):
        x = self.conv(x, edge_index).relu()
        if self.training:
            x = x + self.noise(x)
        return self.head(x, edge_index)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("call", [upscale_fx.trace, upscale_fx.compact, lambda m: upscale_fx.prune(m, 0.5)])
def test_a_model_that_trains_otherwise_is_compiled_for_evaluation_only(call, training):
    model = OtherInTraining().train(training)
    with pytest.warns(UpscaleWarning, match=r"eval\(\) only") if training else nullcontext():
        compiled = call(model)
    assert (compiled.training, model.training) == (False, training)
    result = compiled(X, EDGES)
    with refused(compiled, ModeError, r"eval\(\) only", r"train\(\)", "other operations"):
        compiled.train()
    assert torch.equal(compiled.eval()(X, EDGES), result)
    assert torch.equal(compiled.train(False)(X, EDGES), result)


class WithHead(OtherInTraining):
    """Training returns a second output."""

    def forward(self, x, edge_index):
        h = self.conv(x, edge_index).relu()
        out = self.head(h, edge_index)
        return (out, self.noise(h)) if self.training else out


class WithNoise(OtherInTraining):
    """Training adds noise."""

    def forward(self, x, edge_index):
        h = self.conv(x, edge_index).relu()
        return self.head(h + torch.randn_like(h) if self.training else h, edge_index)


class WithMixing(OtherInTraining):
    """Training mixes rows."""

    def forward(self, x, edge_index):
        h = self.conv(x, edge_index).relu()
        return self.head((h + h.flip(0)) / 2 if self.training else h, edge_index)


class Inner(OtherInTraining):
    """A part trains otherwise."""

    def __init__(self):
        super().__init__()
        self.part = OtherInTraining()

    def forward(self, x, edge_index):
        return self.part(x, edge_index)


@pytest.mark.parametrize("build", [OtherInTraining, WithHead, WithNoise, WithMixing, Inner])
def test_the_warning_says_what_becomes_of_each_call_and_mask_agrees_with_prune(build):
    torch.manual_seed(0)
    model = build().double().train()
    text = (
        r"compiled models of it are in eval\(\).*mask\(\) returns the model itself, still in train\(\).*or train before"
    )
    with pytest.warns(UpscaleWarning, match=text):
        masked = upscale_fx.mask(model, 0.5)
    with pytest.warns(UpscaleWarning, match=text):
        pruned = upscale_fx.prune(model, 0.5)
    assert (masked.training, pruned.training, model.training) == (True, False, True)
    x = X.double()
    torch.testing.assert_close(pruned(x, EDGES), masked.eval()(x, EDGES), rtol=1e-10, atol=1e-12)
    with refused(pruned, ModeError, r"eval\(\) only"):
        pruned.train()


def test_the_refusal_to_train_survives_a_copy_and_another_pruning():
    compiled = upscale_fx.prune(OtherInTraining().eval(), 0.25)
    for other in (copy.deepcopy(compiled), upscale_fx.prune(compiled, 0.5)):
        with refused(other, ModeError, r"eval\(\) only"):
            other.train()


def test_models_that_train_alike_are_compiled_for_both():
    model = nn.ModuleList([GATConv(6, 4, heads=2, dropout=0.5)])[0]
    assert upscale_fx.prune(model, 0.25, inputs=True).train().training
