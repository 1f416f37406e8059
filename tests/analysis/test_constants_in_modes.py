"""Constants by mode: batch norm, dropout and statistics are looked through for inference only."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GCNConv, SAGEConv

import upscale_fx
from tests.analysis.constant_channels import GRAPHS, IN, OUT, WIDTH, Net, prune_rows, ready, same, shape
from upscale_fx.compiled.module import record_of

pytestmark = [
    pytest.mark.usefixtures("seeded"),
    pytest.mark.filterwarnings("ignore:no channel could be removed"),
]


class Normed(nn.Module):
    """Batch norm and dropout behind a pruned layer."""

    def __init__(self, norm=True, p=0.5, functional=0.5):
        super().__init__()
        self.functional = functional
        self.conv, self.norm = GCNConv(IN, WIDTH), nn.BatchNorm1d(WIDTH) if norm else nn.Identity()
        self.drop, self.head = nn.Dropout(p), SAGEConv(WIDTH, OUT)

    def forward(self, x, edge_index):
        h = self.drop(self.norm(self.conv(x, edge_index)).relu())
        return self.head(F.dropout(h, self.functional if self.training else 0.0, self.training), edge_index)


@pytest.mark.parametrize("norm", [True, False])
def test_norm_and_dropout_are_looked_through_for_inference_only(norm):
    model = prune_rows(ready(Normed(norm)), "conv.lin")
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, "head.lin_r.weight") == (OUT, WIDTH)
    fast = upscale_fx.optimize(compiled, inference=True)
    assert same(model, fast)
    assert shape(fast, "head.lin_r.weight") == (OUT, 4)
    assert compiled.training == model.training
    assert shape(compiled, "head.lin_r.weight") == (OUT, WIDTH), "the argument is left alone"


def test_a_mean_without_self_loops_keeps_its_side_of_the_layer():
    model = prune_rows(ready(Normed()), "conv.lin")
    fast = upscale_fx.optimize(upscale_fx.compact(model), inference=True)
    assert shape(fast, "head.lin_l.weight") == (OUT, WIDTH)


def test_for_inference_means_for_eval_only():
    model = prune_rows(ready(Normed()), "conv.lin")
    fast = upscale_fx.optimize(upscale_fx.trace(model.train()), inference=True)
    assert not any(part.training for part in fast.modules())
    for one in (fast, copy.deepcopy(fast), upscale_fx.compact(fast)):
        assert record_of(one).eval_only
        with pytest.raises(upscale_fx.ModeError, match="inference=True"):
            one.train()
    assert same(model.eval(), fast)
    assert upscale_fx.optimize(upscale_fx.trace(model)).train().training
    unpruned = upscale_fx.optimize(upscale_fx.trace(ready(Normed())), inference=True)
    with pytest.raises(upscale_fx.ModeError, match="inference=True"):
        unpruned.train()


def test_norms_without_running_statistics_are_never_looked_through():
    model = ready(Normed(p=0.0))
    model.norm = nn.BatchNorm1d(WIDTH, track_running_stats=False).double()
    prune_rows(model, "conv.lin")
    fast = upscale_fx.optimize(upscale_fx.compact(model), inference=True)
    assert same(model, fast, graphs=GRAPHS[:2])
    assert shape(fast, "head.lin_r.weight") == (OUT, WIDTH)


def test_a_dropout_that_stays_on_in_evaluation_is_never_looked_through():
    model = prune_rows(ready(Net(nn.Linear(IN, WIDTH), lambda h: F.dropout(h, 0.5, True))), "layer")
    fast = upscale_fx.optimize(upscale_fx.trace(model), inference=True)
    assert shape(fast, "head.weight") == (OUT, WIDTH)


@pytest.mark.parametrize("norm", [True, False])
def test_training_computes_the_same(norm):
    model = ready(Normed(norm, p=0.0, functional=0.0))
    prune_rows(model, "conv.lin")
    compiled = upscale_fx.compact(model)
    for _ in range(2):
        model.train(), compiled.train()
        for one in GRAPHS[:2]:
            torch.testing.assert_close(compiled(*one), model(*one), rtol=1e-10, atol=1e-10)
        model.eval(), compiled.eval()
        for one in GRAPHS:
            torch.testing.assert_close(compiled(*one), model(*one), rtol=1e-10, atol=1e-10)
    assert shape(compiled, "head.lin_r.weight") == (OUT, WIDTH if norm else 4)


def test_a_number_that_depends_on_the_mode_is_not_constant():
    class ByMode(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head = nn.Linear(IN, WIDTH), nn.Linear(WIDTH, OUT)

        def forward(self, x):
            return self.head(self.a(x).relu() * (1.0 if self.training else 0.3))

    model = prune_rows(ready(ByMode()), "a")
    compiled = upscale_fx.compact(model)
    for mode in (True, False):
        assert same(model.train(mode), compiled.train(mode))
    assert shape(compiled, "head.weight") == (OUT, WIDTH)
    fast = upscale_fx.optimize(compiled, inference=True)
    assert same(model.eval(), fast)
    assert shape(fast, "head.weight") == (OUT, 4)


def test_statistics_that_training_updates_are_no_constants():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(IN, WIDTH), nn.Linear(IN, WIDTH), nn.Linear(2 * WIDTH, OUT)
            self.register_buffer("mean", torch.randn(WIDTH))
            self.register_buffer("var", torch.ones(WIDTH))

        def forward(self, x):
            normed = F.batch_norm(self.a(x), self.mean, self.var, training=self.training)
            return self.head(torch.cat([normed, self.b(x) + self.mean], dim=1))

    model = prune_rows(ready(Functional()), "b")
    compiled = upscale_fx.compact(model, example_inputs=(GRAPHS[0][0],))
    assert shape(compiled, "head.weight") == (OUT, 2 * WIDTH)
    assert shape(upscale_fx.optimize(compiled, inference=True), "head.weight") == (OUT, WIDTH + 4)
    model.train()(GRAPHS[0][0]), compiled.train()(GRAPHS[0][0])
    assert same(model.eval(), compiled.eval())
