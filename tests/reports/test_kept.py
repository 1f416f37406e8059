"""Kept channels as data: the numbers that the report gives are those of the columns of the model's own weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GATv2Conv, GCNConv, RGCNConv

import upscale_fx
from tests.reports.read_models import families, pruned
from tests.selection import every
from upscale_fx.compiled.module import unfused
from upscale_fx.models import SAGE


@families
def test_columns_of_weights_are_those_of_the_model(family):
    model, compiled = pruned(family, 0.5)
    report = upscale_fx.report(compiled)
    masked = upscale_fx.mask(model, 0.5)
    for entry in report.entries:
        if (weight := _weight(unfused(compiled), entry.name)) is None:
            continue
        kept, mask, before = report.kept[entry.name], report.masks[entry.name], _weight(masked, entry.name)
        assert mask.dtype == torch.bool
        assert mask.shape == (before.shape[1],)
        assert mask.nonzero().squeeze(1).equal(kept.sort().values)
        assert len(kept) == entry.kept == weight.shape[1]
        rows = {tuple(row) for row in before[:, kept].tolist()}
        assert all(tuple(row) in rows for row in weight.tolist()), "rows of the model, less the columns removed"
        assert not before[:, ~mask].any(), "what was removed is zero in the masked model"


def _weight(module, name):
    weight = dict(module.named_parameters()).get(f"{name}.weight")
    return weight if weight is not None and weight.dim() == 2 else None


class Net(nn.Module):
    """Two layers and a head; ``make`` gives the second one, ``call`` calls it."""

    def __init__(self, make, call):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.layer, self.call, self.head = GCNConv(8, 12), make(), call, nn.Linear(12, 3)

    def forward(self, x, edge_index):
        return self.head(self.call(self.layer, self.first(x, edge_index).relu(), edge_index))


KINDS = {
    "called twice": (lambda: nn.Linear(12, 12), lambda f, x, e: f(f(x).relu()).relu()),
    "called on parts": (lambda: nn.Linear(6, 12), lambda f, x, e: f(x[:, :6]) + f(x[:, 6:]).tanh()),
    "by relation": (
        lambda: RGCNConv(12, 12, 3),
        lambda f, x, e: f(x, e, torch.zeros(e.shape[1], dtype=torch.long)).relu(),
    ),
    "a vector": (lambda: GATv2Conv(12, 6, heads=2), lambda f, x, e: F.elu(f(x, e))),
    "recurrent": (lambda: nn.GRU(12, 12, batch_first=True), lambda f, x, e: f(x.unsqueeze(1))[0][:, 0]),
    "a convolution": (lambda: nn.Conv1d(12, 12, 1), lambda f, x, e: f(x[..., None]).squeeze(-1).relu()),
}


@pytest.mark.parametrize("kind", every(2, KINDS))
def test_channels_are_counted_once_and_are_numbers_of_the_model(kind):
    model = Net(*KINDS[kind]).double().eval()
    edges = torch.tensor([[0, 1, 2, 3, 4, 4], [1, 2, 3, 4, 0, 1]])
    compiled = upscale_fx.prune(model, 0.5, example_inputs=(torch.randn(5, 8).double(), edges))
    report = upscale_fx.report(compiled)
    for entry in report.entries:
        assert entry.kept <= entry.before, entry
        if entry.name in report.kept:
            kept = report.kept[entry.name]
            assert len(kept.unique()) == len(kept) == entry.kept
            assert int(kept.max()) < entry.before == len(report.masks[entry.name])


def test_after_pruning_twice_they_are_still_the_numbers_of_the_first_model():
    torch.manual_seed(0)
    model = SAGE(4, 16, 2, num_layers=2).eval()
    once = upscale_fx.prune(model, {"convs.1.lin_l": 0.5})
    twice = upscale_fx.prune(once, {"convs.1.lin_l": 0.5})
    kept = upscale_fx.report(twice).kept["convs.1.lin_l"]
    assert set(kept.tolist()) < set(upscale_fx.report(once).kept["convs.1.lin_l"].tolist())
    weight = unfused(twice).get_parameter("convs.1.lin_l.weight")
    assert weight.equal(model.convs[1].lin_l.weight[:, kept])
