"""Criteria that read calibration data: what they recover, what they minimise, and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import RGCNConv, SAGEConv

import upscale_fx
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.criteria import CALIBRATED, HRank, Taylor
from upscale_fx.errors import InputError, PatternError
from upscale_fx.masking.calibration_data import CalibrationData
from upscale_fx.masking.consumers.survey import find_consumers, survey
from upscale_fx.masking.criteria.activation import Activation
from upscale_fx.masking.criteria.fista import Lasso
from upscale_fx.masking.criteria.hrank import folded, ranks
from upscale_fx.masking.criteria.labels import cross_entropy, without_labels
from upscale_fx.masking.criteria.lasso import LASSO, quadratics, selected, vanishing
from upscale_fx.masking.options import MaskOptions
from upscale_fx.masking.reconstruction.errors import Choice, ReconstructionError
from upscale_fx.masking.removals import plan_removals
from upscale_fx.models import SAGE, GATv2, GraphTransformer, JKNet, SimpleGCN

CRITERIA = ("obs", "lasso", "activation", "taylor", "hrank")
FAMILIES = (SimpleGCN, SAGE, GATv2, GraphTransformer, JKNet)


def graph(seed=0, nodes=120, width=10, classes=5):
    draw = torch.Generator().manual_seed(seed)
    loops = torch.arange(nodes).repeat(2, 1)
    return Data(
        x=torch.randn(nodes, width, generator=draw),
        edge_index=torch.cat([torch.randint(nodes, (2, 5 * nodes), generator=draw), loops], dim=1),
        y=torch.randint(classes, (nodes,), generator=draw),
    )


def kept(model, name):
    """Which input channels a layer still reads."""
    return np.flatnonzero((dict(model.named_modules())[name].weight != 0).any(dim=0).numpy()).tolist()


# The planted problem ------------------------------------------------------------------------------------------------


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


# The LASSO ----------------------------------------------------------------------------------------------------------


def descend(quadratic, penalties, rounds=3000):
    """Coordinate descent on ``(b - 1)' A (b - 1) / 2 + sum of penalties |b|``: the oracle."""
    beta = np.zeros(len(quadratic))
    for _ in range(rounds):
        before = beta.copy()
        for u in range(len(beta)):
            slope = quadratic[u] @ (1 - beta) + quadratic[u, u] * beta[u]
            beta[u] = np.sign(slope) * max(abs(slope) - penalties[u], 0) / quadratic[u, u]
        if np.abs(beta - before).max() < 1e-12:
            break
    return beta


def correlated(seed, rows=80, units=24, outputs=6):
    """Contributions that resemble one another: a quadratic over factors."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((rows, units)) @ (np.eye(units) + 0.4 * draw.standard_normal((units, units)))
    x *= draw.uniform(0.3, 3, units)
    w = draw.standard_normal((units, outputs))
    return (x.T @ x) * (w @ w.T) / rows


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.02, 0.2, 0.6])
def test_fista_finds_the_minimum_that_coordinate_descent_finds(seed, share):
    quadratic = correlated(seed)
    norms = np.sqrt(quadratic.diagonal())
    problem = Lasso(quadratic / norms[:, None] / norms[None], norms, 1e-7)
    penalties = share * np.abs(quadratic.sum(axis=1)).max() * np.random.default_rng(seed).uniform(0.5, 1, len(norms))
    found = problem.solve(penalties / norms, np.zeros(len(norms))) / norms
    expected = descend(quadratic, penalties)
    assert ((found != 0) == (expected != 0)).all()
    assert np.abs(found - expected).max() < 1e-4
    slope = quadratic @ (1 - found)  # the Karush-Kuhn-Tucker conditions
    small = 1e-4 * penalties.max()
    assert (np.abs(slope) <= penalties + small).all()
    assert np.abs(slope - penalties * np.sign(found))[found != 0].max() < small
    warm = problem.solve(penalties / norms, 0.9 * norms * expected + 0.01) / norms
    assert np.abs(warm - expected).max() < 1e-4


def test_what_stays_is_the_support_at_some_penalty():
    for seed in range(6):
        quadratic = correlated(seed)
        norms = np.sqrt(quadratic.diagonal())
        problem = Lasso(quadratic / norms[:, None] / norms[None], norms, 1e-7)
        excess = selected(problem, np.zeros(24, dtype=np.int64), np.array([10]))
        low, high = 0.0, float(np.abs(quadratic.sum(axis=1)).max())
        for _ in range(60):
            middle = (low + high) / 2
            count = np.count_nonzero(descend(quadratic, np.full(24, middle)))
            low, high = (middle, high) if count > 10 else (low, middle)
            if count == 10:
                break
        assert count == 10
        assert set(np.argsort(excess)[-10:]) == set(np.flatnonzero(descend(quadratic, np.full(24, middle))))
        assert (excess > 0).sum() == 10


def test_blocks_of_one_problem_keep_what_each_is_to_keep():
    for seed in range(6):
        quadratic = correlated(seed)
        norms = np.sqrt(quadratic.diagonal())
        problem = Lasso(quadratic / norms[:, None] / norms[None], norms, 1e-7)
        blocks = np.repeat([0, 1, 2], 8)
        excess = selected(problem, blocks, np.array([2, 5, 8]))
        counts = [int((excess[blocks == b] > 0).sum()) for b in range(3)]
        assert np.abs(np.array(counts) - [2, 5, 8]).max() <= 1  # one penalty may jump over a number


def error_of(x, weight, variables, scale=1.0):
    gram = x.T @ x
    units = np.arange(len(variables), dtype=np.int64)
    left = gram + 1e-9 * np.eye(len(gram))
    return ReconstructionError(gram, left, weight, scale, units, np.array(variables), outputs=None, problem=0)


def test_channels_that_go_together_share_a_factor_and_the_rest_is_free():
    draw = np.random.default_rng(0)
    x, weight = draw.standard_normal((50, 7)) + 1.0, draw.standard_normal((7, 3))
    x[:, 6] = 1.0  # the bias, which belongs to no unit
    choice = Choice([error_of(x, weight, [[0, 3], [1, 4], [2, -1], [5, -1]], 2.0)], np.zeros(4, dtype=np.int64),
                    np.array([2]), np.zeros(4))  # fmt: skip
    ((units, found),) = quadratics(choice, 1e-12)
    centred = x - x.mean(axis=0)
    parts = [sum(np.outer(centred[:, v], weight[v]) for v in own) for own in ([0, 3], [1, 4], [2], [5])]
    expected = np.array([[float((a * b).sum()) / 2.0 for b in parts] for a in parts])
    assert units.tolist() == [0, 1, 2, 3]
    assert np.allclose(found, expected, atol=1e-8)


def test_errors_that_share_units_add_up_and_others_are_apart():
    draw = np.random.default_rng(1)
    first, second = (
        error_of(draw.standard_normal((40, 3)), draw.standard_normal((3, 2)), [[0], [1], [2]]) for _ in range(2)
    )
    later = replace(second, units=np.array([1, 3, 4]), problem=1)
    choice = Choice([first, later], np.zeros(6, dtype=np.int64), np.array([2]), np.full(6, 0.25))
    joined, alone = quadratics(choice, 1e-6)
    assert joined[0].tolist() == [0, 1, 2, 3, 4]
    own = [error.gram * (error.weight @ error.weight.T) for error in (first, later)]
    expected = np.zeros((5, 5))
    expected[:3, :3] += own[0]
    expected[np.ix_([1, 3, 4], [1, 3, 4])] += own[1]
    assert np.allclose(joined[1], expected)
    assert alone[0].tolist() == [5]
    assert alone[1].tolist() == [[0.25]]  # no error knows it: its weights alone do


def test_ranked_to_the_last_a_unit_scores_the_penalty_at_which_it_vanishes():
    quadratic = correlated(3)
    norms = np.sqrt(quadratic.diagonal())
    problem = Lasso(quadratic / norms[:, None] / norms[None], norms, 1e-7)
    largest = float(np.abs(quadratic.sum(axis=1)).max())
    scores = vanishing(problem, largest)
    assert scores.argmax() == np.abs(quadratic.sum(axis=1)).argmax()
    for penalty in largest * np.array([0.7, 0.3, 0.1]):
        alive = descend(quadratic, np.full(24, penalty)) != 0
        assert (scores[alive] >= penalty * 0.99).all()  # the first time it is not zero as the penalty falls


def test_a_channel_that_contributes_nothing_goes_first():
    draw = np.random.default_rng(2)
    x = draw.standard_normal((40, 6))
    x[:, 2] = 0.0
    weight = draw.standard_normal((6, 2))
    for quota in (1, 5):
        choice = Choice([error_of(x, weight, [[c] for c in range(6)])], np.zeros(6, dtype=np.int64),
                        np.array([quota]), np.zeros(6))  # fmt: skip
        for criterion in (LASSO(), Activation()):
            assert int(np.argmin(criterion.rank(choice))) == 2


def test_activation_is_the_error_of_a_channel_alone():
    draw = np.random.default_rng(3)
    x, weight = draw.standard_normal((30, 5)) * [1, 2, 3, 4, 5], draw.standard_normal((5, 4))
    choice = Choice([error_of(x, weight, [[0, 1], [2, -1], [3, -1]], 7.0)], np.zeros(3, dtype=np.int64),
                    np.array([1]), np.zeros(3))  # fmt: skip
    energy = [np.square(np.outer(x[:, c], weight[c])).sum() for c in range(5)]
    expected = np.sqrt(np.array([energy[0] + energy[1], energy[2], energy[3]]) / 7.0)
    assert np.allclose(Activation().rank(choice), expected)


# Taylor -------------------------------------------------------------------------------------------------------------


class Two(nn.Module):
    """Two linear layers; its loss is linear in the second one's weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(10, 12).double(), nn.Linear(12, 3).double()

    def forward(self, x, edge_index):
        return self.second(self.first(x).relu())


def observed(criterion, model, batches, name, seed=0):
    """The scores of one layer's channels."""
    traced = upscale_fx.trace(model)
    flow = analyse(traced)
    options = MaskOptions(0.5)
    removals = plan_removals(survey(flow), traced, options)
    pairs = list(CalibrationData(batches, None, traced).with_batches())
    scores = criterion.observe(flow, removals, pairs, seed)
    return next(own for own, removal in zip(scores, removals, strict=True) if removal.consumer.name == name)


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


# HRank --------------------------------------------------------------------------------------------------------------


def planted_maps(height, width, wanted, seed=0):
    """Matrices ``[C, height, width]`` of given ranks."""
    draw = torch.Generator().manual_seed(seed)
    maps = [torch.randn(height, r, generator=draw) @ torch.randn(r, width, generator=draw) for r in wanted]
    return torch.stack(maps)


def test_ranks_are_found_in_float32():
    wanted = [0, 1, 3, 7, 12]
    assert ranks(planted_maps(12, 17, wanted)).tolist() == wanted


def test_rows_are_folded_row_by_row():
    assert folded(torch.arange(1, 8)[:, None]).tolist() == [[[1, 2, 3], [4, 5, 6], [7, 0, 0]]]
    assert folded(torch.ones(1, 2)).shape == (2, 1, 1)
    assert folded(torch.ones(12, 1)).shape == (1, 3, 4)


class Identity(nn.Module):
    """Its hidden channels are what it is given."""

    def __init__(self, width):
        super().__init__()
        self.enter, self.last = nn.Linear(width, width, bias=False), nn.Linear(width, 3)
        with torch.no_grad():
            self.enter.weight.copy_(torch.eye(width))

    def forward(self, x, edge_index, batch):
        return self.last(self.enter(x))


def test_a_graph_has_one_map_per_channel_and_batches_are_averaged():
    first, second = [1, 2, 5, 9], [3, 0, 8, 9]
    batches = []
    for seed, wanted in enumerate((first, second)):
        x = planted_maps(9, 9, wanted, seed).reshape(4, 81).t().contiguous()
        batches.append((x, torch.zeros(2, 1, dtype=torch.long), torch.zeros(81, dtype=torch.long)))
    scores = observed(HRank(), Identity(4), batches, "last")
    assert scores.tolist() == [(a + b) / 2 for a, b in zip(first, second, strict=True)]


def test_graphs_of_a_batch_have_maps_of_their_own():
    parts = [planted_maps(5, 5, [1, 4, 2]), planted_maps(4, 4, [3, 2, 0], 1)]
    x = torch.cat([part.reshape(3, -1).t() for part in parts])
    batch = torch.tensor([0] * 25 + [1] * 16)
    scores = observed(HRank(), Identity(3), (x, torch.zeros(2, 1, dtype=torch.long), batch), "last")
    assert scores.tolist() == [2, 3, 1]


def test_large_graphs_are_sampled_by_seed():
    x = torch.randn(400, 3)
    x[:, 1] = 1.0
    batch = (x, torch.zeros(2, 1, dtype=torch.long), torch.zeros(400, dtype=torch.long))
    scores = observed(HRank(rows=64), Identity(3), batch, "last")
    assert scores.tolist() == [8, 1, 8]
    x[:, 2] = (torch.arange(400) < 100).float()
    again = [observed(HRank(rows=64), Identity(3), batch, "last", seed).tolist() for seed in (1, 1)]
    assert again[0] == again[1]


class Images(nn.Module):
    """Two convolutions: maps of its hidden channels are those of the images."""

    def __init__(self):
        super().__init__()
        self.enter, self.last = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 2, 1)
        with torch.no_grad():
            self.enter.weight.copy_(torch.eye(4)[:, :, None, None])

    def forward(self, images):
        return self.last(self.enter(images))


def test_images_have_their_own_maps():
    images = torch.stack([planted_maps(6, 8, [1, 2, 5, 6], seed) for seed in range(3)])
    images[0, 3] = 0.0
    model = Images()
    traced = upscale_fx.trace(model, (images,))
    flow = analyse(traced)
    removals = plan_removals(survey(flow), traced, MaskOptions(0.5))
    scores = HRank().observe(flow, removals, [(images, {"images": images})], 0)
    found = next(s for s, r in zip(scores, removals, strict=True) if r.consumer.name == "last")
    assert found.tolist() == [1, 2, 5, 4]
    masked = upscale_fx.mask(model, 0.5, criterion="hrank", calibration=images, example_inputs=(images,))
    assert kept(masked, "last") == [2, 3]


# All of them --------------------------------------------------------------------------------------------------------


class Relational(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = RGCNConv(10, 16, 3), RGCNConv(16, 5, 3)

    def forward(self, x, edge_index, edge_type):
        return self.last(self.first(x, edge_index, edge_type).relu(), edge_index, edge_type)


def lost(model, masked):
    """For every consumer how many of its channels it lost."""
    found = find_consumers(analyse(upscale_fx.trace(model)))
    return {c.name: int((c.reads(model) & ~c.reads(masked)).sum()) for c in found if c.hidden.any()}


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_criterion_removes_as_much_as_was_asked(family, criterion):
    torch.manual_seed(0)
    model, data = family(10, 16, 5).eval(), graph()
    free = upscale_fx.mask(model, 0.5, criterion=criterion, calibration=data)
    together = upscale_fx.mask(model, 0.5, criterion=criterion, calibration=data, constrained=True)
    anywhere = upscale_fx.mask(model, 0.5, criterion=criterion, calibration=data, scope="global")
    asked = {
        c.name: sum(round(0.5 * int(n)) for n in np.bincount(np.zeros(c.count, int) if c.blocks is None else c.blocks))
        for c in find_consumers(analyse(upscale_fx.trace(model))) if c.hidden.any()
    }  # fmt: skip
    assert lost(model, free) == asked
    assert lost(model, together) == asked
    total = sum(int(c.hidden.sum()) for c in find_consumers(analyse(upscale_fx.trace(model)))) // 2
    assert total - 4 < sum(lost(model, anywhere).values()) <= total  # heads of a pool lose one each at a time
    for masked in (free, together, anywhere):
        compiled = upscale_fx.prune(masked, 0.0)
        assert upscale_fx.verify(masked, compiled, (data.x, data.edge_index)) <= 1e-4


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
    for batches in ([graph(seed) for seed in range(3)], iter([graph(1), graph(2)])):
        masked = upscale_fx.mask(model, 0.5, criterion=criterion, calibration=batches)
        assert set(lost(model, masked).values()) == {8}


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
