"""Budgets err less than uniform amounts, and say what they do not go with."""

import numpy as np
import pytest
import torch
from torch import nn

import upscale_fx
from tests.comparison import parameters
from tests.masking.budgets import MODELS, NODES, graph, make, pruned
from tests.selection import only
from upscale_fx import Budget
from upscale_fx.errors import AmountError, PatternError
from upscale_fx.models import SAGE

pytestmark = pytest.mark.usefixtures("double_precision")


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "kind", "says"), [
    ({"amount": 0.5}, AmountError, "one of amount, budget"),
    ({"evaluate": lambda model: 1.0, "max_drop": 0.1}, AmountError, "one of amount, budget"),
    ({"criterion": "lasso"}, PatternError, "spent by reconstruction errors"),
    ({"criterion": "l1"}, PatternError, "spent by reconstruction errors"),
    ({"scope": "global"}, PatternError, "leave scope and round_to out"),
    ({"round_to": 8}, PatternError, "leave scope and round_to out"),
    ({"steps": 3}, PatternError, "steps and budget"),
])  # fmt: skip
def test_what_a_budget_does_not_go_with(options, kind, says):
    with pytest.raises(kind, match=says):
        pruned("gcn", 16, budget=Budget(params=0.5), **options)


@pytest.mark.parametrize("arguments", [
    {}, {"macs": 0.5, "params": 0.5}, {"params": 0}, {"params": -1}, {"params": True}, {"params": "1"},
    {"params": float("nan")}, {"params": float("inf")}, {"params": 0.5, "sharing": "sometimes"},
])  # fmt: skip
def test_what_a_budget_may_not_be(arguments):
    with pytest.raises(AmountError, match="Budget"):
        Budget(**arguments)


def test_a_budget_is_a_budget():
    with pytest.raises(AmountError, match=r"budget takes a upscale_fx\.Budget"):
        pruned("gcn", 16, budget=0.5)


def test_multiply_adds_need_a_call():
    with pytest.raises(PatternError, match=r"Budget\(macs=\.\.\.\) counts the multiply-adds of a call"):
        upscale_fx.prune(make("gcn", 16), budget=Budget(macs=0.5))


# Errors of outputs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """Models that have learned for a while, with their dense logits."""
    found = {}
    for name in ("gcn", "sage", "gatv2", "transformer", "jknet", "residual"):
        torch.manual_seed(0)
        model = MODELS[name][0](32).double()
        x, edge_index = (value.double() if value.is_floating_point() else value for value in graph())
        classes = (x[:, :3].square().sum(dim=1) * 0.3 + x[edge_index[0]][:NODES, 3].tanh()).long().clamp(0, 4)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x, edge_index), classes).backward()
            optimizer.step()
        found[name] = model.eval()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "pure", only([{"constrained": False}], [{"constrained": False}, {"constrained": True}]), ids=["alone", "shared"]
)
@pytest.mark.parametrize("amount", only([0.7], [0.5, 0.7]))
def test_outputs_err_less_than_with_the_same_amount_everywhere(amount, pure, trained):
    """At the parameters that uniform amounts leave, on the mean over models; shared sets are a tie at times."""
    x, edge_index = graph()
    errors = []
    for model in trained.values():
        options = {"calibration": (x, edge_index), "progress": False}
        uniform = upscale_fx.prune(model, amount, **pure, **options)
        spent = upscale_fx.prune(model, budget=Budget(params=parameters(uniform)), **options)
        assert parameters(spent) <= 1.02 * parameters(uniform)
        with torch.no_grad():
            dense = model(x, edge_index)
            spread = (dense - dense.mean(dim=0)).norm()
            errors.append([float((found(x, edge_index) - dense).norm() / spread) for found in (uniform, spent)])
    by_uniform, by_budget = np.mean(errors, axis=0)
    print(f"amount {amount}, {pure}: uniform {by_uniform:.4f}, budget {by_budget:.4f}")
    assert by_budget < by_uniform * (1.05 if pure["constrained"] else 1.0)


def test_small_steps_make_up_for_large_ones():
    """A channel of the first layer costs a sixth of the budget: the rest of it is spent on the layers after it."""
    torch.manual_seed(0)
    model = SAGE(400, 32, 5).eval()
    x, edge_index = graph(400)
    compiled = upscale_fx.prune(model, budget=Budget(params=0.17), calibration=(x, edge_index), progress=False)
    assert parameters(compiled) == pytest.approx(0.17 * parameters(model), rel=0.02)
    kept = {entry.name: entry.kept for entry in upscale_fx.report(compiled).entries}
    assert all(kept[f"convs.{layer}.lin_{side}"] >= 4 for layer in (1, 2) for side in "lr")
