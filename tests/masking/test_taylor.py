"""Taylor scores are squared changes of the loss, whose labels and losses must fit."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.data import Data

import upscale_fx
from tests.masking.observed import graph, kept, observed
from upscale_fx.criteria import Taylor
from upscale_fx.errors import InputError
from upscale_fx.masking.criteria.labels import cross_entropy, without_labels
from upscale_fx.models import SAGE


class Two(nn.Module):
    """Two linear layers; its loss is linear in the second one's weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(10, 12).double(), nn.Linear(12, 3).double()

    def forward(self, x, edge_index):
        return self.second(self.first(x).relu())


def test_taylor_scores_are_squared_changes_of_a_linear_loss_averaged_over_batches():
    model, batches = Two().eval(), [graph(seed) for seed in range(3)]
    for batch in batches:
        batch.x = batch.x.double()
    loss = lambda output, batch: (output * batch.x[:, :3]).sum()  # noqa: E731
    scores = observed(Taylor(loss), model, batches, "second")
    expected = np.zeros(12)
    with torch.no_grad():
        dense = [float(loss(model(b.x, b.edge_index), b)) for b in batches]
        for channel in range(12):
            column = model.second.weight[:, channel].clone()
            model.second.weight[:, channel] = 0
            changes = [float(loss(model(b.x, b.edge_index), b)) - d for b, d in zip(batches, dense, strict=True)]
            expected[channel] = np.mean(np.square(changes))
            model.second.weight[:, channel] = column
    assert np.allclose(scores, expected)


def test_taylor_keeps_the_channels_that_the_loss_depends_on():
    model, data = Two().eval(), graph()
    data.x = data.x.double()
    needed = [1, 4, 5, 8, 10, 11]
    with torch.no_grad():
        model.second.weight[0] = 0.0
        model.second.weight[0, needed] = 0.01
        model.second.weight[1:] *= 100  # large, and no matter to the loss
    loss = lambda output, batch: output[:, 0].square().mean()  # noqa: E731
    masked = upscale_fx.mask(model, 0.5, criterion=Taylor(loss), calibration=data, refit=False)
    assert kept(masked, "second") == needed
    assert kept(upscale_fx.mask(model, 0.5), "second") != needed


def test_taylor_leaves_the_model_as_it_was_and_works_for_frozen_ones():
    model, data = SAGE(10, 16, 5).train(), graph()
    free = upscale_fx.mask(model, 0.5, criterion="taylor", calibration=data)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        frozen = upscale_fx.mask(model, 0.5, criterion="taylor", calibration=data)
    assert model.training
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(free.parameters(), frozen.parameters(), strict=True))


def test_the_loss_counts_labelled_training_rows():
    output, y = torch.randn(6, 4), torch.tensor([0, 1, -1, 2, 3, 1])
    mask = torch.tensor([True, True, True, False, False, True])
    assert torch.equal(cross_entropy(output, Data(y=y)), F.cross_entropy(output, y, ignore_index=-1))
    rows = torch.tensor([0, 1, 5])
    expected = F.cross_entropy(output[rows], y[rows])
    assert torch.equal(cross_entropy(output, Data(y=y, train_mask=mask)), expected)
    assert torch.equal(cross_entropy(output, {"y": y[:, None], "train_mask": mask}), expected)
    seeds = F.cross_entropy(output[:2], y[:2])
    assert torch.equal(cross_entropy(output, Data(y=y, batch_size=2)), seeds)
    assert torch.equal(cross_entropy(output[:2], Data(y=y, train_mask=mask, batch_size=2)), seeds)


def test_labels_of_a_dictionary_are_not_passed_to_the_model():
    data = graph()
    model = SAGE(10, 16, 5).eval()
    whole = {"x": data.x, "edge_index": data.edge_index, "y": data.y, "train_mask": torch.arange(120) < 60}
    of_dict = upscale_fx.mask(model, 0.5, criterion="taylor", calibration=whole)
    data.train_mask = whole["train_mask"]
    of_data = upscale_fx.mask(model, 0.5, criterion="taylor", calibration=data)
    assert all(torch.equal(a, b) for a, b in zip(of_dict.parameters(), of_data.parameters(), strict=True))
    assert list(without_labels(whole, model)) == ["x", "edge_index"]
    assert upscale_fx.mask(model, 0.5, criterion="obs", calibration=whole)

    class Reads(nn.Module):
        def forward(self, x, y):
            return x + y

    assert without_labels({"x": 1, "y": 2}, Reads()) == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "'taylor' needs labels, and a Data batch has none.*Taylor.lambda output, batch"),
        (torch.zeros(120), "whole numbers"),
        (torch.zeros(7, dtype=torch.long), r"logits \[120, 5\], got \[7\]"),
        (torch.full((120,), -1), "no row of a batch has a label"),
        (torch.full((120,), 9), "class 9, the model returns 5"),
    ],
)
def test_labels_that_are_missing_or_do_not_fit(labels, message):
    data = graph()
    del data.y
    if labels is not None:
        data.y = labels
    with pytest.raises(InputError, match=message):
        upscale_fx.mask(SAGE(10, 16, 5).eval(), 0.5, criterion="taylor", calibration=data)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda output, batch: output, r"one number, got one of shape \[120, 5\]"),
        (lambda output, batch: 1.0, "one number, got a float"),
        (lambda output, batch: output.detach().sum(), "depends on no parameter"),
        (lambda output, batch: output.sum() * float("nan"), "the loss is nan"),
        (lambda output, batch: (output * 0).sqrt().sum(), "gradients of .* hold NaN"),
    ],
)
def test_losses_that_are_none(loss, message):
    with pytest.raises(InputError, match=message):
        upscale_fx.mask(SAGE(10, 16, 5).eval(), 0.5, criterion=Taylor(loss), calibration=graph())


def test_a_tuple_has_no_labels():
    data = graph()
    with pytest.raises(InputError, match="a tuple batch has none"):
        upscale_fx.mask(SAGE(10, 16, 5).eval(), 0.5, criterion="taylor", calibration=(data.x, data.edge_index))
