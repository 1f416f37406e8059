"""Warnings name the user's line that led to them, however many calls of ours lie between."""

import linecache

import pytest
import torch
from torch.nn import Linear, Module
from torch.nn.functional import linear

import upscale_fx
from upscale_fx.errors import UpscaleWarning, warn

X, EDGES = torch.randn(9, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])


class EvalOnly(Module):
    """Cannot be traced in ``train()``."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Linear(6, 8), Linear(8, 2)

    def forward(self, x, edge_index):
        if self.training and x.sum().item() > 1e9:
            raise ValueError
        hidden = self.first(x).relu()
        return self.second(hidden.index_add(0, edge_index[1], hidden[edge_index[0]]))


class Computed(EvalOnly):
    """One of its weights is computed, and so keeps its channels."""

    def __init__(self):
        super().__init__()
        self.third = Linear(2, 2)

    def forward(self, x, edge_index):
        hidden = linear(self.first(x).relu(), self.second.weight.cumsum(1)).relu()
        return self.third(hidden.index_add(0, edge_index[1], hidden[edge_index[0]]))


def lines(caught, words):
    """The source lines that warnings with these words name, with their files."""
    found = [w for w in caught if issubclass(w.category, UpscaleWarning) and words in str(w.message)]
    return {(w.filename, linecache.getline(w.filename, w.lineno).strip()) for w in found}


@pytest.mark.parametrize("around", [torch.enable_grad, torch.inference_mode], ids=["plainly", "in inference mode"])
def test_of_graphs_for_evaluation_alone(around):
    with around(), pytest.warns(UpscaleWarning) as caught:
        upscale_fx.trace(EvalOnly())
    assert lines(caught, "eval() only") == {(__file__, "upscale_fx.trace(EvalOnly())")}
    with around(), pytest.warns(UpscaleWarning) as caught:
        upscale_fx.mask(EvalOnly(), 0.5)
    assert lines(caught, "eval() only") == {(__file__, "upscale_fx.mask(EvalOnly(), 0.5)")}
    with around(), pytest.warns(UpscaleWarning) as caught:
        upscale_fx.prune(EvalOnly(), 0.5)
    assert lines(caught, "eval() only") == {(__file__, "upscale_fx.prune(EvalOnly(), 0.5)")}


def test_of_channels_that_are_left():
    with pytest.warns(UpscaleWarning) as caught:
        upscale_fx.prune(Computed(), 0.5)
    assert lines(caught, "could not be removed") == {(__file__, "upscale_fx.prune(Computed(), 0.5)")}


def test_of_data_with_few_rows():
    model = EvalOnly().eval()
    few = (X[:3], EDGES[:, :2])
    with pytest.warns(UpscaleWarning) as caught:
        upscale_fx.mask(model, 0.5, calibration=few)
    assert lines(caught, "fewer rows") == {(__file__, "upscale_fx.mask(model, 0.5, calibration=few)")}
    with pytest.warns(UpscaleWarning) as caught:
        upscale_fx.prune(model, 0.5, calibration=few)
    assert lines(caught, "fewer rows") == {(__file__, "upscale_fx.prune(model, 0.5, calibration=few)")}


def test_of_training_in_eval():
    compiled = upscale_fx.optimize(upscale_fx.trace(EvalOnly().eval()), inference=True)
    with pytest.warns(UpscaleWarning) as caught:
        upscale_fx.finetune(compiled, [(X, EDGES)], lambda out, batch: out.square().mean(), epochs=1, progress=False)
    assert {file for file, _ in lines(caught, "trained in eval()")} == {__file__}


def test_what_we_call_back_counts_as_the_users():
    def between(compiled, step):
        upscale_fx.trace(EvalOnly())

    with pytest.warns(UpscaleWarning) as caught:
        upscale_fx.prune(EvalOnly().eval(), 0.5, steps=2, schedule="linear", between=between, progress=False)
    assert lines(caught, "eval() only") == {(__file__, "upscale_fx.trace(EvalOnly())")}


def test_a_name_that_only_begins_like_ours_is_the_users():
    space = {"__name__": "upscale_fx_extras", "warn": warn}
    with pytest.warns(UpscaleWarning) as caught:
        exec(compile("warn('seen')", "extras.py", "exec"), space)
    assert [w.filename for w in caught] == ["extras.py"]
