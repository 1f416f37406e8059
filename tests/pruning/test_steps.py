"""Pruning in steps: the counts and the report of one call, every step exact, training between steps, schedules."""

import copy

import pytest
import torch

import upscale_fx
from tests.pruning.stepped import INPUT, MODELS, OUTPUT, WIDTH, in_steps, kept, make, once, original, stepwise, train_on
from tests.selection import case, every, only
from upscale_fx.masking.consumers.pools import removable
from upscale_fx.masking.options import MaskOptions
from upscale_fx.models import SAGE, SimpleGCN
from upscale_fx.pruning.goals import SCHEDULES, share_for
from upscale_fx.pruning.steps import StepOptions, prune_in_steps

WAYS = [(0.3, False), (0.77, False), (0.5, True)]


@pytest.mark.parametrize(
    ("name", "amount", "constrained"),
    [
        case((name, *way), (way == WAYS[0] and number % 2 == 1) or (way == WAYS[2] and name == "JKNet"))
        for number, name in enumerate(MODELS)
        for way in WAYS
    ],
)
def test_steps_remove_what_one_call_removes(name, amount, constrained):
    stepped = kept(stepwise(name, amount, constrained))
    assert stepped == kept(once(name, amount, constrained))
    for consumer, heads in original(make(name)).items():
        if not (constrained and name == "JKNet" and consumer == "lin"):  # three shared sets, rounded one by one
            assert stepped[consumer] == sum(count - removable(count, amount) for count in heads)


@pytest.mark.parametrize("name", every(8, MODELS))
def test_the_report_speaks_of_the_original_model(name):
    called, stepped = upscale_fx.report(once(name, 0.3)), upscale_fx.report(stepwise(name, 0.3))
    assert stepped.before == called.before
    assert [(e.name, e.before, e.asked) for e in stepped.entries] == [
        (e.name, e.before, e.asked) for e in called.entries
    ]
    assert [e.reason for e in stepped.entries if not e.asked] == [e.reason for e in called.entries if not e.asked]
    assert stepped.leftover == 0
    assert stepped.after.parameters < stepped.before.parameters
    assert not any("amount 0" in entry.reason for entry in stepped.entries)


@pytest.mark.parametrize(
    ("schedule", "steps"), only([("linear", 3)], [("cubic", 2), ("cubic", 5), ("linear", 3), ("exponential", 6)])
)
def test_neither_schedule_nor_number_of_steps_changes_what_is_kept(schedule, steps):
    assert kept(in_steps(make("SAGE"), 0.6, steps, schedule=schedule)) == kept(once("SAGE", 0.6))


@pytest.mark.parametrize("name", every(8, MODELS, 1))
def test_every_step_is_exactly_its_mask_also_after_training(name, graph):
    x, edge_index, y = graph
    model = make(name)
    gaps = []

    def prune_once(module, amount):
        compiled = upscale_fx.prune(module, amount)
        gaps.append((amount, upscale_fx.verify(upscale_fx.mask(module, amount), compiled, (x, edge_index))))
        return compiled

    how = StepOptions(steps=3, schedule="linear", between=train_on(x, edge_index, y), progress=False)
    final = prune_in_steps(model, MaskOptions(amount=0.6), how, prune_once)
    assert sum(amount != 0.0 for amount, _ in gaps) == 3
    assert max(gap for _, gap in gaps) <= 1e-10
    for consumer, heads in original(model).items():
        assert kept(final)[consumer] == sum(count - removable(count, 0.6) for count in heads)


@pytest.mark.parametrize("family", [SimpleGCN, SAGE])
def test_of_two_layers_steps_without_training_choose_what_one_call_does(family, graph):
    model = family(INPUT, WIDTH, OUTPUT, num_layers=2).double().eval()
    stepped = in_steps(model, 0.6)
    assert upscale_fx.verify(upscale_fx.mask(model, 0.6), stepped, graph[:2]) <= 1e-10


def test_between_trains_what_the_next_step_prunes(graph):
    x, edge_index, y = graph
    seen, taken = [], []

    def prune_once(module, amount):
        taken.append({name: value.clone() for name, value in module.state_dict().items()})
        return upscale_fx.prune(module, amount)

    model = make("SAGE")
    before = copy.deepcopy(model.state_dict())
    how = StepOptions(steps=4, schedule="linear", between=train_on(x, edge_index, y, seen), progress=False)
    final = prune_in_steps(model, MaskOptions(amount=0.5), how, prune_once)
    assert [step for step, *_ in seen] == [1, 2, 3]
    for (_, _, losses, trained), next_start in zip(seen, taken[1:], strict=True):
        assert losses[-1] < losses[0]
        assert trained.keys() == next_start.keys()
        assert all(torch.equal(trained[key], next_start[key]) for key in trained)
    sizes = [sum(value.numel() for value in state.values()) for state in taken]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    bias = final.get_parameter("convs.2.lin_l.bias")  # masking leaves biases alone: what it learned is still there
    assert torch.equal(bias, seen[-1][3]["convs.2.lin_l.bias"])
    assert not torch.equal(bias, before["convs.2.lin_l.bias"])


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_gradients_stay_as_they_were(training, graph):
    model = make("SAGE").train(training)
    model.convs[0].lin_l.weight.requires_grad_(False)
    final = in_steps(model, 0.5, 3, train_on(*graph))
    assert final.training is training
    assert model.training is training
    assert not final.get_parameter("convs.0.lin_l.weight").requires_grad
    assert final.get_parameter("convs.1.lin_l.weight").requires_grad


def test_one_step_is_one_call(graph):
    model = make("GATv2")
    amounts = []

    def prune_once(module, amount):
        amounts.append(amount)
        return upscale_fx.prune(module, amount)

    final = prune_in_steps(model, MaskOptions(amount=0.5), StepOptions(progress=False), prune_once)
    assert amounts == [0.5]
    assert upscale_fx.verify(upscale_fx.prune(model, 0.5), final, graph[:2]) == 0


def test_amount_zero_only_compiles(graph):
    model = make("SAGE")
    assert upscale_fx.verify(model, in_steps(model, 0.0), graph[:2]) <= 1e-10


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_rise_from_nothing_to_the_amount(schedule):
    share = SCHEDULES[schedule]
    shares = [share(0.8, step, 10) for step in range(11)]
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(0.8)
    assert shares == sorted(set(shares))
    if schedule == "cubic":  # equation 1 with s_i = 0, s_f = 0.8, halfway
        assert shares[5] == pytest.approx(0.8 + (0 - 0.8) * (1 - 1 / 2) ** 3)


@pytest.mark.parametrize("counts", [(1,), (2,), (7,), (96,), (8, 8, 8, 8), (6, 5, 6, 6), (3, 1), ()])
def test_a_share_removes_as_many_as_wanted_or_the_most_below(counts):
    def total(share):
        return sum(removable(count, share) for count in counts)

    possible = {total(k / 5000) for k in range(5000)}
    for wanted in range(-1, sum(counts) + 1):
        share = share_for(counts, wanted)
        assert 0 <= share < 1
        assert total(share) == max((count for count in possible if count <= wanted), default=0)
