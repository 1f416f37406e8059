"""Options are refused when they are made: before a model is traced, data is read or anything else takes time."""

import inspect
from dataclasses import fields

import pytest
from torch import nn

import upscale_fx
from upscale_fx.masking.options import MaskOptions
from upscale_fx.pruning.once import CompactOptions
from upscale_fx.pruning.prune import PruneOptions
from upscale_fx.pruning.steps import StepOptions
from upscale_fx.pruning.target import TargetOptions


class Untouched(nn.Module):
    """A model that fails when it is traced."""

    def forward(self, x, edge_index):
        pytest.fail("the model was run")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, upscale_fx.AmountError),
        ({"amount": 1.5}, upscale_fx.AmountError),
        ({"amount": 0.5, "criterion": "best"}, upscale_fx.PatternError),
        ({"amount": 0.5, "scope": "all"}, upscale_fx.PatternError),
        ({"amount": 0.5, "round_to": True}, upscale_fx.AmountError),
        ({"amount": 0.5, "inputs": "yes"}, upscale_fx.PatternError),
        ({"amount": 0.5, "calibration": 3}, upscale_fx.InputError),
        ({"amount": 0.5, "steps": 0}, upscale_fx.AmountError),
        ({"amount": 0.5, "steps": 2, "schedule": "square"}, upscale_fx.PatternError),
        ({"amount": 0.5, "schedule": "square"}, upscale_fx.PatternError),
        ({"amount": 0.5, "steps": 2, "between": 3}, upscale_fx.InputError),
        ({"evaluate": 0.9, "max_drop": 0.1}, upscale_fx.EvaluationError),
        ({"evaluate": len, "max_drop": -0.1}, upscale_fx.TargetError),
        ({"evaluate": len, "max_drop": 0.1, "tolerance": 0}, upscale_fx.TargetError),
        ({"evaluate": len, "max_drop": 0.1, "steps": 2}, upscale_fx.AmountError),
        ({"budget": upscale_fx.Budget(params=0.5), "steps": 2}, upscale_fx.PatternError),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_the_model_is_touched(options, error):
    with pytest.raises(error):
        upscale_fx.prune(Untouched(), **options)


def test_an_unknown_option_is_named():
    with pytest.raises(TypeError, match=r"prune\(\) got an unexpected keyword argument 'amuont'"):
        PruneOptions.of(amuont=0.5)
    with pytest.raises(TypeError, match="'amuont'"):
        upscale_fx.prune(Untouched(), amuont=0.5)
    with pytest.raises(TypeError, match="'amuont'"):
        upscale_fx.sweep(nn.Linear(3, 3), [0.5], lambda _: 1.0, amuont=0.5)


@pytest.mark.parametrize("kind", [MaskOptions, CompactOptions, StepOptions, TargetOptions])
def test_options_are_given_by_name_only(kind):
    with pytest.raises(TypeError, match="positional"):
        kind(0.5)


def defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY or p.name == "amount"}


def test_defaults_are_those_of_the_signatures_of_the_calls():
    for call in (upscale_fx.mask, upscale_fx.prune):
        shown = defaults(call)
        for kind in (MaskOptions, StepOptions, CompactOptions) if call is upscale_fx.prune else (MaskOptions,):
            for field in fields(kind):
                assert shown[field.name] == field.default, field.name
    assert defaults(upscale_fx.prune).keys() == (
        {f.name for kind in (MaskOptions, StepOptions, CompactOptions, TargetOptions) for f in fields(kind)}
        | {"example_inputs", "example_kwargs", "dynamic_axes", "indices", "method"}
    )
