"""Every model of the zoo, masked and compacted: the smaller graph computes what the masked model computes.

Equal means: no output differs by more than 1e-10 of the largest value, in float64, on graphs it was not traced on.
"""

import copy
import os
from functools import cached_property

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils import _pytree as pytree

import upscale_fx
from tests import zoo
from tests.comparison import assert_same, hooks, parameters, same_state, state
from tests.whole.zoo_runs import AMOUNTS, SIZES, assert_same_on_all_sizes, own_keys, run
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.compiled.module import unfused
from upscale_fx.masking.consumers.survey import find_consumers

#: Whether every model is tried at every amount (nightly); else only the five families are, and for the others the
#: amounts take turns.
EVERY_AMOUNT = os.environ.get("UPSCALE_FX_AMOUNTS") == "all"


class Case:
    """One model without dropout, masked by an amount, and what is made of it; each is made once, and never changed.

    The model has modes that differ, hooks, and a parameter that is frozen, so that it shows if it is not left alone.
    """

    def __init__(self, name, amount):
        self.entry, self.amount = zoo.ZOO[name], amount
        self.model = zoo.without_dropout(zoo.make(name))
        self.example = self.entry.example()
        for number, module in enumerate(self.model.modules()):
            module.training = number % 2 == 0
        next(self.model.parameters()).requires_grad_(False)
        self.model.register_forward_hook(lambda *_: None)
        self.model.register_forward_pre_hook(lambda *_: None)

    @cached_property
    def masked(self):
        return upscale_fx.mask(self.model, self.amount, example_kwargs=self.example).eval()

    @cached_property
    def compacted(self):
        return upscale_fx.compact(self.masked, example_kwargs=self.example)

    @cached_property
    def pruned(self):
        return upscale_fx.prune(self.model, self.amount, example_kwargs=self.example).eval()


def cases(step):
    """Models with the amounts they are pruned by, of which ``make test`` takes one, and every ``step``-th model."""
    for number, name in enumerate(zoo.ZOO):
        all_of_them = EVERY_AMOUNT or name.startswith("family-")
        for place, amount in enumerate(AMOUNTS):
            turn = place == number % 3
            if turn or all_of_them:
                marks = [] if turn and number % step == 0 else [pytest.mark.slow]
                yield pytest.param((name, amount), id=f"{name}-{amount}", marks=marks)


@pytest.fixture(scope="module")
def case(request):
    return Case(*request.param)


def pytest_generate_tests(metafunc):
    """Every test takes the same cases in the same order, so that each is made once for all of them."""
    if "case" in metafunc.fixturenames:
        step = 16 if metafunc.function in COMPILING_AGAIN else 8
        metafunc.parametrize("case", list(cases(step)), indirect=True, scope="module")


def condition(model):
    """Everything about a model but its values: modes, hooks, identity of parameters, random numbers to come."""
    return (
        hooks(model),
        [(type(m), m.training, sorted(vars(m))) for m in model.modules()],
        [(name, id(p), p.requires_grad, p.grad) for name, p in model.named_parameters()],
        torch.get_rng_state().tolist(),
    )


def test_the_model_is_left_as_it_was(case):
    before, values = condition(case.model), state(case.model)
    case.masked, case.pruned  # noqa: B018 (the first that asks for them makes them)
    assert condition(case.model) == before
    assert same_state(values, state(case.model))


# Exactness -----------------------------------------------------------------------------------------------------------


def test_compacted_is_masked(case):
    assert_same_on_all_sizes(case.masked, case.compacted, case.entry)
    assert_smaller(case.compacted, case)


def test_pruned_is_masked(case):
    assert_same_on_all_sizes(case.masked, case.pruned, case.entry)


def test_in_training_too(case):
    masked, pruned = copy.deepcopy(case.masked).train(), copy.deepcopy(case.pruned).train()
    for size in SIZES:
        assert_same(run(masked, case.entry, size), run(pruned, case.entry, size))
    assert_same(run(masked.eval(), case.entry), run(pruned.eval(), case.entry))  # with the statistics of both steps


def test_after_a_deep_copy(case):
    twin = copy.deepcopy(case.pruned)
    assert_same(run(case.masked, case.entry), run(twin, case.entry))
    assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in case.pruned.parameters()}
    assert twin.state_dict().keys() == case.pruned.state_dict().keys()


def test_in_float32(case):
    masked, pruned = copy.deepcopy(case.masked).to(torch.float32), copy.deepcopy(case.pruned).to(torch.float32)
    expected, found = (run(model, case.entry, dtype=torch.float32) for model in (masked, pruned))
    assert {leaf.dtype for leaf in pytree.tree_leaves(found)} == {torch.float32}
    assert_same(expected, found, tolerance=1e-4)


def hidden_readers(compiled):
    """Consumers of hidden channels that have any left that are not zero."""
    found = [c for c in find_consumers(analyse(unfused(compiled))) if c.hidden.any()]
    return [c for c in found if c.reads(compiled).any()]


def one_channel_a_head(consumer, root):
    """Whether every head a consumer reads has a single live channel left, half of which is none."""
    live = consumer.reads(root) & consumer.hidden
    blocks = consumer.blocks if consumer.blocks is not None else np.zeros(consumer.count, dtype=int)
    return np.bincount(blocks[live]).max() <= 1


@pytest.mark.filterwarnings("ignore::upscale_fx.UpscaleWarning")  # heads of one channel have none to lose
def test_pruned_a_second_time(case):
    if all(one_channel_a_head(consumer, case.pruned) for consumer in hidden_readers(case.pruned)):
        with pytest.raises(upscale_fx.NothingToPruneError, match="rounds to none"):
            upscale_fx.prune(case.pruned, 0.5)
        return
    masked, pruned = upscale_fx.mask(case.pruned, 0.5), upscale_fx.prune(case.pruned, 0.5)
    assert_same_on_all_sizes(masked, pruned, case.entry)
    assert own_keys(pruned.state_dict()) <= set(case.model.state_dict())


def test_after_pickling_into_a_fresh_process(case, fresh):
    """It knows neither the zoo nor what was traced here."""
    inputs = case.entry.inputs(*SIZES[0], seed=11)
    assert_same(run(case.masked, case.entry), fresh.call(case.pruned, inputs))


def test_after_torch_save(tmp_path):
    """Its protocol cannot store torch's memory formats by itself, which spectral norms name."""
    model = nn.Sequential(nn.Linear(6, 8), spectral_norm(nn.Linear(8, 8)), nn.Linear(8, 2))
    x = torch.randn(5, 6)
    compiled = upscale_fx.prune(model.eval(), 0.5, example_inputs=(x,))
    torch.save(compiled, tmp_path / "compiled.pt")
    loaded = torch.load(tmp_path / "compiled.pt", weights_only=False)
    assert torch.equal(loaded(x), compiled(x))


# Size ----------------------------------------------------------------------------------------------------------------


def assert_smaller(smaller, case):
    """Fewer parameters, unless a barrier keeps all, under names that the model has."""
    assert own_keys(smaller.state_dict()) <= set(case.model.state_dict())
    assert own_keys(dict(smaller.named_parameters())) <= set(dict(case.model.named_parameters()))
    if not case.entry.barrier:
        assert parameters(smaller) < parameters(case.model)


def test_gets_smaller_and_keeps_its_names(case):
    assert_smaller(case.pruned, case)


def test_compacting_twice_is_compacting_once(case):
    again = upscale_fx.compact(case.compacted)
    assert parameters(again) == parameters(case.compacted)
    assert_same_on_all_sizes(case.masked, again, case.entry)


# The mask ------------------------------------------------------------------------------------------------------------


def test_the_mask_changes_the_output(case):
    models = copy.deepcopy(case.model).eval(), case.masked
    dense, masked = (pytree.tree_leaves(run(model, case.entry)) for model in models)
    assert all(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(dense, masked, strict=True))
    assert type(case.masked) is type(case.model)


#: Tests that compile something anew; ``make test`` runs them on every sixteenth model.
COMPILING_AGAIN = (test_compacted_is_masked, test_pruned_a_second_time, test_compacting_twice_is_compacting_once)
