"""Criteria that read calibration data: what they recover, how much they remove, and what they refuse."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import RGCNConv, SAGEConv

import upscale_fx
from tests.masking.observed import graph, kept
from tests.networks import FAMILIES
from tests.selection import every
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.criteria import CALIBRATED
from upscale_fx.errors import InputError, PatternError
from upscale_fx.masking.consumers.survey import find_consumers
from upscale_fx.models import SAGE, GATv2, JKNet, SimpleGCN

CRITERIA = ("obs", "lasso", "activation", "taylor", "hrank")


# The planted problem -------------------------------------------------------------------------------------------------


class Planted(nn.Module):
    """A hidden layer of 64: 16 channels matter, by small weights on large values; 48 have large weights and do not.

    Of these a third is dead, a third constant, and a third are pairs of the same channel with opposite weights, of
    inputs that nothing else reads.
    """

    def __init__(self, seed, conv=False):
        super().__init__()
        torch.manual_seed(seed)
        self.enter = nn.Linear(10, 64)
        self.last = SAGEConv(64, 8) if conv else nn.Linear(64, 8)
        order = torch.randperm(64)
        self.informative, dead, constant, left, right = order.split([16, 16, 16, 8, 8])
        with torch.no_grad():
            self.enter.weight[self.informative, 5:], self.enter.weight[left, :5] = 0.0, 0.0
            self.enter.weight[self.informative] *= 100
            for same, bias in ((dead, -1.0), (constant, 1.0)):
                self.enter.weight[same], self.enter.bias[same] = 0.0, bias
            self.enter.weight[right], self.enter.bias[right] = self.enter.weight[left], self.enter.bias[left]
            for layer in [self.last.lin_l, self.last.lin_r] if conv else [self.last]:
                layer.weight[:, self.informative] *= 0.05
                layer.weight[:, right] = -layer.weight[:, left]

    def forward(self, x, edge_index):
        x = self.enter(x).relu()
        return self.last(x) if isinstance(self.last, nn.Linear) else self.last(x, edge_index)


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize(("criterion", "found"), [("lasso", 16), ("obs", 16), ("l2", 0)])
def test_informative_channels_are_recovered(criterion, found, conv):
    data = graph(nodes=1000)
    for seed in range(3):
        model = Planted(seed, conv).eval()
        given = {} if criterion == "l2" else {"calibration": data}
        masked = upscale_fx.mask(model, 0.75, criterion=criterion, **given)
        for name in ("last.lin_l", "last.lin_r") if conv else ("last",):
            assert len(set(kept(masked, name)) & set(model.informative.tolist())) == found


def trained(family, seed, data):
    torch.manual_seed(seed)
    model = family(data.num_features, 32, 5, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(data.x, data.edge_index), data.y).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.slow
def test_after_the_refit_obs_errs_least_then_lasso_then_weights_alone_then_chance():
    errors = {name: [] for name in ("obs", "lasso", "l2", "random")}
    for family in (SimpleGCN, SAGE, JKNet, GATv2):
        for seed in range(2):
            data = graph(seed, nodes=300)
            model = trained(family, seed, data)
            with torch.no_grad():
                dense = model(data.x, data.edge_index)
                for name, found in errors.items():
                    masked = upscale_fx.mask(model, 0.5, criterion=name, calibration=data)
                    found.append(float((masked(data.x, data.edge_index) - dense).norm() / dense.norm()))
    means = [float(np.mean(found)) for found in errors.values()]
    print(dict(zip(errors, means, strict=True)))
    assert means == sorted(means)


# All of them ---------------------------------------------------------------------------------------------------------


class Relational(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = RGCNConv(10, 16, 3), RGCNConv(16, 5, 3)

    def forward(self, x, edge_index, edge_type):
        return self.last(self.first(x, edge_index, edge_type).relu(), edge_index, edge_type)


def consumers_of(model):
    """Those that read hidden channels."""
    return [c for c in find_consumers(analyse(upscale_fx.trace(model))) if c.hidden.any()]


def lost(consumers, model, masked):
    """For every consumer how many of its channels it lost."""
    return {c.name: int((c.reads(model) & ~c.reads(masked)).sum()) for c in consumers}


@pytest.mark.parametrize(("family", "criterion"), every(6, product(FAMILIES, CRITERIA)))  # each once
def test_every_criterion_removes_as_much_as_was_asked(family, criterion):
    torch.manual_seed(0)
    model, data = family(10, 16, 5).eval(), graph()
    consumers = consumers_of(model)
    free = upscale_fx.mask(model, 0.5, criterion=criterion, calibration=data)
    together = upscale_fx.mask(model, 0.5, criterion=criterion, calibration=data, constrained=True)
    anywhere = upscale_fx.mask(model, 0.5, criterion=criterion, calibration=data, scope="global")
    asked = {
        c.name: sum(round(0.5 * int(n)) for n in np.bincount(np.zeros(c.count, int) if c.blocks is None else c.blocks))
        for c in consumers
    }  # fmt: skip
    assert lost(consumers, model, free) == asked
    assert lost(consumers, model, together) == asked
    total = sum(int(c.hidden.sum()) for c in consumers) // 2
    found = sum(lost(consumers, model, anywhere).values())
    assert total - 4 < found <= total  # heads of a pool lose one each at a time
    compiled = upscale_fx.compact(together)
    assert upscale_fx.verify(together, compiled, (data.x, data.edge_index)) <= 1e-4


@pytest.mark.parametrize("criterion", CRITERIA)
def test_relations_share_their_channels(criterion):
    model, data = Relational().eval(), graph()
    data.edge_type = torch.arange(data.num_edges) % 3
    for options in ({}, {"constrained": True}, {"scope": "global"}):
        masked = upscale_fx.mask(model, 0.5, criterion=criterion, calibration=data,
                                 example_inputs=data, **options)  # fmt: skip
        left = (masked.last.weight != 0).any(dim=2).any(dim=0)
        assert options.get("scope") or int(left.sum()) == 8


@pytest.mark.parametrize("criterion", CRITERIA)
def test_several_batches_and_a_one_shot_stream(criterion):
    model = SAGE(10, 16, 5).eval()
    consumers = consumers_of(model)
    for batches in ([graph(seed) for seed in range(3)], iter([graph(1), graph(2)])):
        masked = upscale_fx.mask(model, 0.5, criterion=criterion, calibration=batches)
        assert set(lost(consumers, model, masked).values()) == {8}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_values_that_are_not_finite_are_refused(criterion):
    data = graph()
    data.x[3, 2] = float("nan")
    with pytest.raises(InputError, match=r"calibration: .*isfinite"):
        upscale_fx.mask(SAGE(10, 16, 5).eval(), 0.5, criterion=criterion, calibration=data)


@pytest.mark.parametrize("criterion", [*CRITERIA, *CALIBRATED.values()])
def test_without_calibration_data_there_is_nothing_to_read(criterion):
    with pytest.raises(PatternError, match="pass calibration="):
        upscale_fx.mask(SAGE(10, 16, 5).eval(), 0.5, criterion=criterion)
