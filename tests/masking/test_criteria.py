"""Criteria that read weights alone: their definitions, and callables of users."""

import copy
import math

import numpy as np
import pytest
import torch

import upscale_fx
from tests.masking.zeros import HIDDEN_READERS, columns_l2, sage, zero_columns, zero_counts
from upscale_fx import criteria
from upscale_fx.models import SimpleGCN

pytestmark = pytest.mark.usefixtures("seeded")


def columns_l1(weight):
    return [sum(abs(v) for v in column) for column in weight.T.tolist()]


def columns_lamp(weight):
    energy = [sum(v * v for v in column) for column in weight.T.tolist()]
    return [own / sum(other for other in energy if other >= own) for own in energy]


def columns_fpgm(weight):
    columns = weight.T.tolist()
    return [sum(math.dist(own, other) for other in columns) for own in columns]


REFERENCES = {"l1": columns_l1, "l2": columns_l2, "lamp": columns_lamp, "fpgm": columns_fpgm}


def test_every_criterion_is_specified_here():
    assert {*REFERENCES, "random"} == set(criteria.CRITERIA)


@pytest.mark.parametrize("criterion", REFERENCES)
def test_scores_equal_their_definition(criterion):
    weight = torch.randn(9, 13, dtype=torch.float64)
    scores = criteria.CRITERIA[criterion](weight, "layer")
    np.testing.assert_allclose(scores, REFERENCES[criterion](weight), rtol=1e-12)


@pytest.mark.parametrize("criterion", REFERENCES)
def test_the_lowest_scores_go(criterion):
    model = sage().double()
    masked = upscale_fx.mask(model, 0.5, criterion=criterion)
    for name in HIDDEN_READERS:
        scores = REFERENCES[criterion](model.get_submodule(name).weight.detach())
        assert zero_columns(masked, name) == set(np.argsort(scores)[:8].tolist())


def test_l2_is_the_default():
    model = sage()
    default, named = upscale_fx.mask(model, 0.5), upscale_fx.mask(model, 0.5, criterion="l2")
    assert [zero_columns(default, n) for n in HIDDEN_READERS] == [zero_columns(named, n) for n in HIDDEN_READERS]


def test_lamp_compares_layers_whatever_their_scale():
    model = sage()
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled.convs[1].lin_l.weight *= 1024
    for criterion, same in (("lamp", True), ("l2", False)):
        counts = [
            zero_counts(upscale_fx.mask(m, 0.5, criterion=criterion, scope="global"), HIDDEN_READERS)
            for m in (model, scaled)
        ]
        assert (counts[0] == counts[1]) == same


def test_lamp_of_a_layer_that_is_zero_is_no_nan():
    assert criteria.lamp(torch.zeros(3, 4), "layer").tolist() == [0, 0, 0, 0]


def test_fpgm_removes_a_duplicated_column_first():
    """All columns have the same norm and stand at right angles, but for two that are the same."""
    model = SimpleGCN(6, 8, 8, num_layers=2)
    weight = torch.eye(8)
    weight[:, 6] = weight[:, 3]
    with torch.no_grad():
        model.convs[1].lin.weight.copy_(weight)
    assert zero_columns(upscale_fx.mask(model, 0.125, criterion="fpgm"), "convs.1.lin") == {3}
    assert zero_columns(upscale_fx.mask(model, 0.125, criterion="l2"), "convs.1.lin") == {0}


def test_random_differs_between_consumers_and_leaves_the_global_seed_alone():
    model = sage(32)
    before = torch.get_rng_state()
    masked = upscale_fx.mask(model, 0.5, criterion="random")
    assert torch.equal(torch.get_rng_state(), before)
    assert zero_counts(masked, HIDDEN_READERS) == [16] * 4
    assert len({frozenset(zero_columns(masked, name)) for name in HIDDEN_READERS}) == 4


def test_a_callable_sees_every_weight_as_outputs_by_inputs_with_its_name():
    seen = {}

    def last_first(weight, name):
        seen[name] = tuple(weight.shape)
        return -torch.arange(weight.shape[1])

    masked = upscale_fx.mask(sage(), 0.25, criterion=last_first)
    assert seen == {
        "convs.0.lin_l": (16, 6), "convs.0.lin_r": (16, 6), "convs.1.lin_l": (16, 16), "convs.1.lin_r": (16, 16),
        "convs.2.lin_l": (3, 16), "convs.2.lin_r": (3, 16),
    }  # fmt: skip
    assert zero_columns(masked, "convs.1.lin_l") == {12, 13, 14, 15}


@pytest.mark.parametrize(
    "convert", [torch.Tensor.numpy, torch.Tensor.tolist, lambda scores: scores.half()], ids=["numpy", "list", "half"]
)
def test_a_callable_returns_scores_of_any_kind(convert):
    masked = upscale_fx.mask(sage(), 0.25, criterion=lambda weight, name: convert(torch.arange(weight.shape[1])))
    assert zero_columns(masked, "convs.2.lin_r") == {0, 1, 2, 3}


def test_a_callable_that_writes_into_its_weight_changes_no_model():
    model = sage()
    before = copy.deepcopy(model.state_dict())

    def careless(weight, name):
        return weight.zero_().sum(dim=0)

    masked = upscale_fx.mask(model, 0.25, criterion=careless)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert zero_counts(masked, HIDDEN_READERS) == [4] * 4


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (lambda weight, name: weight.sum(dim=1), r"shape \[16\] for convs.0.lin_l .*expected \[6\]"),
        (lambda weight, name: weight, r"shape \[16, 6\] for convs.0.lin_l .*expected \[6\]"),
        (lambda weight, name: 1.0, r"shape \[\] for convs.0.lin_l"),
        (lambda weight, name: weight.sum(dim=0) * math.nan, r"NaN for convs.0.lin_l"),
    ],
)
def test_a_callable_with_impossible_scores_is_refused(criterion, message):
    with pytest.raises(upscale_fx.CriterionError, match=message):
        upscale_fx.mask(sage(), 0.5, criterion=criterion)
