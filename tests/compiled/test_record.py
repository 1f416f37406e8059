"""What a compiled graph carries with it."""

import copy
import dataclasses
import pickle

import pytest
import torch
from torch import nn

import upscale_fx
from tests.comparison import stored
from upscale_fx.compiled import record
from upscale_fx.compiled.module import CompiledGNN, inputs_of, is_fused, note, record_of, unfused
from upscale_fx.models import SAGE

DRAW = torch.Generator().manual_seed(0)
X, EDGES = torch.randn(30, 8, generator=DRAW), torch.randint(30, (2, 90), generator=DRAW)


@pytest.fixture(scope="module")
def compiled():
    torch.manual_seed(0)
    return upscale_fx.prune(SAGE(8, 16, 4).eval(), 0.5)


class NamedLikeAttributes(nn.Module):
    """Layers with the names that a compiled graph might give to attributes of its own."""

    NAMES = ("inputs", "record", "report", "plain", "note", "origins")

    def __init__(self):
        super().__init__()
        for name in self.NAMES:
            self.add_module(name, nn.Linear(8, 8))

    def forward(self, x, edge_index):
        for name in self.NAMES:
            x = getattr(self, name)(x).relu()
        return x


def test_layers_may_have_any_name():
    model = NamedLikeAttributes().eval()
    compiled = upscale_fx.prune(model, 0.5)
    assert upscale_fx.verify(upscale_fx.mask(model, 0.5), compiled, (X, EDGES)) < 1e-6
    assert {name.partition(".")[0] for name in stored(compiled)} == set(NamedLikeAttributes.NAMES)


def test_everything_that_is_carried_is_a_frozen_dataclass(compiled):
    found = record_of(compiled)
    assert list(compiled.meta) == ["upscale_fx"]
    for name in record.__all__:
        kind = getattr(record, name)
        if isinstance(kind, type):
            assert dataclasses.is_dataclass(kind)
            assert kind.__dataclass_params__.frozen, name
    for field in dataclasses.fields(found):
        assert f"        {field.name}: " in type(found).__doc__, f"{field.name} is not described"
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.compacted = False


def test_it_goes_with_copies_and_pickles(compiled):
    for again in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        assert str(upscale_fx.report(again)) == str(upscale_fx.report(compiled))
        assert inputs_of(again).arguments.keys() == {"x", "edge_index"}
        assert is_fused(again)
        assert torch.equal(again(X, EDGES), compiled(X, EDGES))


def test_noting_something_changes_one_graph_only(compiled):
    other = copy.deepcopy(compiled)
    note(other, eval_only="for a test")
    assert record_of(other).eval_only == "for a test"
    assert record_of(compiled).eval_only == ""
    with pytest.raises(upscale_fx.ModeError, match="for a test"):
        other.train()


def test_the_graph_before_fusing_is_not_fused_and_computes_the_same(compiled):
    before = unfused(compiled)
    assert isinstance(before, CompiledGNN)
    assert not is_fused(before)
    assert unfused(before) is before
    assert record_of(before).pruning == record_of(compiled).pruning
    torch.testing.assert_close(before(X, EDGES), compiled(X, EDGES))
