"""What bad options get: an UpscaleError that is also the fitting built-in type, with the facts needed to go on.

Every row of a table is one refusal: what is called, the type raised, and what the message must say. Whatever was
refused, the model is as it was.
"""

import inspect
import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

import upscale_fx
from tests.whole.refusals import BUILT_IN, EDGES, NoLayer, X, refused
from upscale_fx import AmountError, CriterionError, NothingToPruneError, PatternError, UpscaleError
from upscale_fx.models import SAGE

NAMES = r"\['convs\.0\.lin_l', 'convs\.0\.lin_r', 'convs\.1\.lin_l', 'convs\.1\.lin_r'\]"


def test_every_public_error_has_its_built_in_type():
    classes = [value for value in vars(upscale_fx).values() if inspect.isclass(value)]
    assert {found for found in classes if issubclass(found, UpscaleError)} == {UpscaleError, *BUILT_IN}
    assert all(issubclass(error, built_in) for error, built_in in BUILT_IN.items())


# Amounts, names and choices ------------------------------------------------------------------------------------------

BAD_AMOUNTS = [
    -0.1, -1e-12, 1, 1.0, 1.5, 50, math.nan, math.inf, -math.inf, np.float64("nan"), "0.5", "half", b"0.5", True, False,
    None, 1j, [0.5], (0.5,), torch.tensor([0.25, 0.5]), torch.nn.ReLU,
]  # fmt: skip


@pytest.mark.parametrize("amount", BAD_AMOUNTS, ids=repr)
@pytest.mark.parametrize("call", [upscale_fx.mask, upscale_fx.prune])
def test_amount_is_a_number_from_zero_to_below_one(model, call, amount):
    with refused(model, AmountError, r"\bamount\b", r"\[0, 1\)", f"got {re.escape(repr(amount))}"):
        call(model, amount)


@pytest.mark.parametrize("amount", [1, math.nan, "0.5", True, None], ids=repr)
def test_amounts_of_a_dictionary_are_named(model, amount):
    with refused(model, AmountError, r"amount\['convs\.1'\]", r"\[0, 1\)", f"got {re.escape(repr(amount))}"):
        upscale_fx.prune(model, {"*": 0.5, "convs.1": amount})


BAD_OPTIONS = [
    ({"criterion": "l3"}, PatternError, ["criterion 'l3'", "fpgm.*l1.*l2.*lamp.*random", "callable"]),
    ({"criterion": "L2"}, PatternError, ["criterion 'L2'", "'l2'"]),
    ({"criterion": ["l1"]}, PatternError, [r"criterion \['l1'\]", "'l2'"]),
    ({"criterion": 2}, PatternError, ["criterion 2", "'l2'"]),
    ({"ignore": "conv.1"}, PatternError, ["ignore", "'conv.1'", "matches no", NAMES]),
    ({"ignore": ["convs.1", "head"]}, PatternError, ["ignore", "'head'", NAMES]),
    ({"ignore": ""}, PatternError, ["ignore", "''", NAMES]),
    ({"ignore": [3]}, PatternError, ["ignore", r"\b3\b", NAMES]),
    ({"ignore": 3}, PatternError, ["ignore", r"\b3\b"]),
    ({"amount": {"conv.*": 0.5}}, PatternError, ["amount", r"'conv\.\*'", NAMES]),
    ({"amount": {"convs.1": 0.5, "convs.2": 0.5}}, PatternError, ["amount", r"'convs\.2'", NAMES]),
    ({"amount": {1: 0.5}}, PatternError, ["amount", r"\b1\b", NAMES]),
    ({"scope": "model"}, PatternError, ["scope 'model'", "'layer'", "'global'"]),
    ({"round_to": 0}, AmountError, ["round_to", "positive integer", "got 0"]),
    ({"round_to": -4}, AmountError, ["round_to", "got -4"]),
    ({"round_to": 2.5}, AmountError, ["round_to", "got 2.5"]),
    ({"round_to": True}, AmountError, ["round_to", "got True"]),
    ({"round_to": None}, AmountError, ["round_to", "got None"]),
]


@pytest.mark.parametrize("call", [upscale_fx.mask, upscale_fx.prune])
@pytest.mark.parametrize(("options", "error", "facts"), BAD_OPTIONS, ids=[str(options) for options, *_ in BAD_OPTIONS])
def test_options_that_are_not_understood(model, call, options, error, facts):
    with refused(model, error, *facts):
        call(model, **{"amount": 0.5, **options})


@pytest.mark.parametrize("call", [upscale_fx.mask, upscale_fx.prune])
@pytest.mark.parametrize(
    ("criterion", "facts"),
    [
        (lambda weight, name: weight.sum(dim=1), [r"\[16\]", r"convs\.0\.lin_l", r"expected \[6\]"]),
        (lambda weight, name: weight.sum(dim=0) * math.nan, ["NaN", r"convs\.0\.lin_l"]),
        (lambda weight, name: None, ["None", r"convs\.0\.lin_l", "expected"]),
        (lambda weight, name: "low", [r"\bstr\b", r"convs\.0\.lin_l", "expected"]),
    ],
    ids=["shape", "NaN", "None", "str"],
)
def test_scores_that_a_criterion_cannot_return(model, call, criterion, facts):
    with refused(model, CriterionError, *facts):
        call(model, 0.5, criterion=criterion)


def test_a_bad_amount_is_told_before_anything_slow_happens():
    class Never(nn.Module):
        def forward(self, x):
            raise AssertionError("was run")

    with refused(Never(), AmountError):
        upscale_fx.prune(Never(), 2)


# Nothing to prune ----------------------------------------------------------------------------------------------------


def two_layers():
    return SAGE(6, 16, 3, num_layers=2)


@pytest.mark.parametrize("call", [upscale_fx.mask, upscale_fx.prune])
@pytest.mark.parametrize(
    ("build", "options", "facts"),
    [
        pytest.param(
            lambda: SAGE(6, 16, 3, num_layers=1), {},
            [r"convs\.0\.lin_l \(6 channels\): reads raw inputs only", r"convs\.0\.lin_r .*raw", "inputs=True"],
            id="only raw inputs are read",
        ),
        pytest.param(NoLayer, {"example_inputs": (X, EDGES)}, ["no contraction over channels"], id="no consumer"),
        pytest.param(
            two_layers, {"amount": 0.03, "inputs": True},
            [
                r"convs\.0\.lin_l \(6 channels\): 0\.03 of 6 channels rounds to none",
                r"convs\.1\.lin_r \(16 channels\): 0\.03 of 16 channels rounds to none",
            ],
            id="rounds to none",
        ),
        pytest.param(
            two_layers, {"ignore": "convs.1"},
            [r"convs\.0\.lin_l .*raw", r"convs\.1\.lin_l \(16 channels\): ignored"],
            id="ignored",
        ),
        pytest.param(
            two_layers, {"amount": {"convs.1": 0.01}},
            [r"convs\.1\.lin_l .*0\.01 of 16 channels rounds to none"],
            id="amounts by name",
        ),
        pytest.param(
            two_layers, {"round_to": 16}, [r"convs\.1\.lin_l .*multiple.* round_to"], id="round_to"
        ),
        pytest.param(
            lambda: SAGE(6, 1, 3, num_layers=2), {}, [r"convs\.1\.lin_l \(1 channels?\): "], id="a single channel"
        ),
    ],
)  # fmt: skip
def test_nothing_to_prune_lists_the_consumers_and_why(build, options, facts, call):
    model = build()
    with refused(model, NothingToPruneError, "nothing to prune", *facts):
        call(model, **{"amount": 0.5, **options})


def test_behind_a_barrier_a_reader_still_shrinks_and_the_barrier_is_named():
    """All channels of the norm stay; its reader takes a copy of half of them, since nothing else could go."""

    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = GCNConv(6, 16), nn.LayerNorm(16), GCNConv(16, 3)

        def forward(self, x, edge_index):
            return self.head(self.norm(self.conv(x, edge_index)), edge_index)

    compiled = upscale_fx.prune(Normalised(), 0.5)
    assert compiled.get_parameter("head.lin.weight").shape == (3, 8)
    assert compiled.get_parameter("conv.lin.weight").shape == (16, 6)
    assert re.search(r"barrier: .*layer_norm", str(upscale_fx.report(compiled)))


def test_advice_is_given_only_where_it_helps():
    """Where everything is ignored, ``inputs=True`` would change nothing."""
    with pytest.raises(NothingToPruneError) as caught:
        upscale_fx.prune(SAGE(6, 16, 3), 0.5, ignore="*")
    assert "inputs=True" not in str(caught.value)


def test_amount_zero_is_no_error_even_where_nothing_can_be_removed():
    model = SAGE(6, 16, 3, num_layers=1).eval()
    torch.testing.assert_close(upscale_fx.prune(model, 0)(X, EDGES), model(X, EDGES))
