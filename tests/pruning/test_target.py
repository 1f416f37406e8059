"""The search for the largest amount within a drop, against exhaustive search; and what it promises of noisy scores."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric import seed_everything
from torch_geometric.datasets import FakeDataset

import upscale_fx
from upscale_fx.errors import EvaluationError, TargetError
from upscale_fx.models import SAGE
from upscale_fx.pruning.target import TargetOptions, prune_to_target

GRID = [k / 64 for k in range(1, 64)]


class Pruned(nn.Module):
    """What a search sees of a pruned model: its parameters, and the amount it was made with."""

    def __init__(self, amount):
        super().__init__()
        self.amount = amount
        self.lin = nn.Linear(max(round(64 * (1 - amount)), 1), 1, bias=False)


def within(evaluate, max_drop):
    return TargetOptions(evaluate=evaluate, max_drop=max_drop, progress=False)


def search(score, max_drop, prune_at=Pruned, **options):
    """A search with a score by amount; the dense model has amount 0."""
    how = TargetOptions(evaluate=lambda m: score(m.amount), max_drop=max_drop, progress=False, **options)
    return prune_to_target(prune_at, Pruned(0.0), how)


@pytest.mark.parametrize("limit", [1 / 64, 1 / 50, 0.1, 0.125, 0.33, 0.5, 0.61, 0.75, 0.8, 0.875, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("power", [1, 4])
def test_of_monotone_scores_the_amount_is_that_of_exhaustive_search(limit, power):
    def score(amount):
        return 0.9 - 0.5 * amount**power

    max_drop = 0.5 * limit**power
    best = max(amount for amount in GRID if score(0) - score(amount) <= max_drop + 1e-7)
    compiled, trail = search(score, max_drop)
    assert compiled.amount == best == trail.best.amount
    assert len(trail.rows) <= 12
    assert len({row.amount for row in trail.rows}) == len(trail.rows)


def test_a_coarser_tolerance_tries_fewer_amounts_and_ends_as_close_as_it_says():
    fine, coarse = (search(lambda a: 1 - a, 0.6, tolerance=t)[1] for t in (1 / 256, 1 / 8))
    assert 0.6 - 1 / 256 <= fine.best.amount <= 0.6
    assert 0.6 - 1 / 8 <= coarse.best.amount <= 0.6
    assert len(coarse.rows) < len(fine.rows)


@pytest.mark.parametrize("seed", range(20))
def test_of_scores_that_are_not_monotone_the_result_is_within_and_nothing_larger_that_was_tried(seed):
    noise = np.random.default_rng(seed)
    scores = {0.0: 0.8}

    def score(amount):
        return scores.setdefault(amount, 0.8 - 0.3 * amount + noise.normal(scale=0.1))

    try:
        compiled, trail = search(score, 0.05)
    except TargetError:
        assert all(0.8 - value > 0.05 for amount, value in scores.items() if amount)
        return
    assert 0.8 - scores[compiled.amount] <= 0.05
    assert all(0.8 - value > 0.05 for amount, value in scores.items() if amount > compiled.amount)
    assert {row.amount for row in trail.rows} == scores.keys() - {0.0}


def test_a_pruned_model_may_be_better_than_the_dense_one():
    compiled, trail = search(lambda a: 0.5 + a / 2, 0.0)
    assert compiled.amount == 63 / 64
    assert trail.best.drop == pytest.approx(-63 / 128)


def test_differences_of_rounding_are_no_drop():
    compiled, _ = search(lambda a: 0.81 if a == 0 else (0.807 if a <= 0.5 else 0.1), 0.003)  # 0.0030000000000000027
    assert compiled.amount == 0.5


def test_the_trail_prints_and_pickles():
    _, trail = search(lambda a: 1 - a, 0.3)
    assert pickle.loads(pickle.dumps(trail)) == trail
    assert str(trail).splitlines() == [
        "  amount     score     drop    parameters  drop <= 0.3",
        "--------  --------  -------  ------------  -------------",
        "   dense         1                     64",
        "   0.875     0.125   +0.875             8  no",
        "    0.75      0.25    +0.75            16  no",
        "     0.5       0.5     +0.5            32  no",
        "    0.25      0.75    +0.25            48  yes",
        "   0.375     0.625   +0.375            40  no",
        "  0.3125    0.6875  +0.3125            44  no",
        "  0.2812   0.71875  +0.2812            46  yes",
        "  0.2969  0.703125  +0.2969            45  yes <-",
    ]


def test_amounts_that_round_to_no_channel_are_within():
    def prune_at(amount):
        if amount < 0.2:
            raise upscale_fx.NothingToPruneError("rounds to none")
        return Pruned(amount)

    compiled, _ = search(lambda a: 1 - a, 0.3, prune_at)
    assert compiled.amount == 19 / 64
    with pytest.raises(TargetError, match="nothing removed") as found:
        search(lambda a: 1.0 if a == 0 else 0.0, 0.3, prune_at)
    assert "no amount that removes channels" in str(found.value)


def test_a_model_of_which_nothing_can_go_says_so():
    def prune_at(amount):
        raise upscale_fx.NothingToPruneError(f"nothing at {amount}")

    with pytest.raises(upscale_fx.NothingToPruneError, match="nothing at"):
        search(lambda a: 1 - a, 0.3, prune_at)


def test_where_every_amount_drops_too_much_the_error_shows_the_trail_and_what_to_do():
    with pytest.raises(TargetError, match="max_drop") as found:
        search(lambda a: 0.9 if a == 0 else 0.5 - a / 10, 0.01)
    text = str(found.value)
    for word in ("0.01562", "0.875", "0.9", "calibration", "the least drop was 0.4016"):
        assert word in text
    assert isinstance(found.value, upscale_fx.UpscaleError)
    assert isinstance(found.value, ValueError)


@pytest.mark.parametrize("max_drop", [-0.1, float("nan"), float("inf"), "0.1", None, True])
def test_a_drop_that_is_none_is_refused_before_anything_is_evaluated(max_drop):
    with pytest.raises(TargetError, match="max_drop"):
        search(lambda a: pytest.fail("evaluated"), max_drop)


@pytest.mark.parametrize("tolerance", [0, -1, 1, 2, float("nan"), "1/64"])
def test_a_tolerance_that_is_none_is_refused(tolerance):
    with pytest.raises(TargetError, match="tolerance"):
        search(lambda a: 1 - a, 0.1, tolerance=tolerance)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), "0.9", None, True, 1j, torch.ones(3), torch.tensor(float("nan")), torch.tensor(True)],
    ids=str,
)
def test_an_evaluation_that_is_no_number_is_refused(value):
    with pytest.raises(EvaluationError, match="the dense model"):
        search(lambda a: value, 0.1)
    with pytest.raises(EvaluationError, match=r"the model pruned by 0\.875"):
        search(lambda a: value if a else 0.5, 0.1)


@pytest.mark.parametrize("make", [torch.tensor, lambda v: torch.tensor([[v]]), np.float32, np.float64, int])
def test_an_evaluation_may_be_any_single_number(make):
    compiled, _ = search(lambda a: make(100 * (1 - a)), 50)
    assert compiled.amount == 0.5


def test_what_cannot_be_called_is_no_evaluation():
    with pytest.raises(EvaluationError, match="function"):
        TargetOptions(evaluate=0.9, max_drop=0.1)


@pytest.fixture(scope="module")
def trained():
    """A small GraphSAGE, trained on a generated graph, and how many nodes of it a model gets right."""
    seed_everything(0)
    data = FakeDataset(num_graphs=1, avg_num_nodes=200, num_channels=16, num_classes=4, task="node")[0]
    model = SAGE(16, 32, 4, num_layers=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.x, data.edge_index), data.y).backward()
        optimizer.step()
    modes = []

    def accuracy(module):
        modes.append(module.training)
        with torch.no_grad():
            return (module(data.x, data.edge_index).argmax(dim=1) == data.y).float().mean()

    return model, accuracy, modes


def test_a_trained_model_is_pruned_to_the_drop(trained):
    model, accuracy, modes = trained
    model.train()
    model.convs[0].eval()
    compiled, trail = prune_to_target(lambda a: upscale_fx.prune(model, a), model, within(accuracy, 0.05))
    assert model.training
    assert not model.convs[0].training
    assert compiled.training
    assert not any(modes)
    compiled.eval(), model.eval()
    assert float(accuracy(model)) == pytest.approx(trail.dense)
    assert float(accuracy(model)) - float(accuracy(compiled)) <= 0.05
    assert trail.best.parameters == sum(p.numel() for p in compiled.parameters()) < trail.parameters
    assert upscale_fx.report(compiled).after.parameters == trail.best.parameters
    larger = [row for row in trail.rows if row.amount > trail.best.amount]
    assert all(not row.within for row in larger)


def test_a_drop_that_allows_anything_prunes_all_but_a_channel(trained):
    model, accuracy, _ = trained
    compiled, trail = prune_to_target(lambda a: upscale_fx.prune(model, a), model, within(accuracy, 1.0))
    assert trail.best.amount == 63 / 64
    assert compiled.get_parameter("convs.1.lin_l.weight").shape == (4, 1)
