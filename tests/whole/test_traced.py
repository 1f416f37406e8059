"""Every model of the zoo, traced: the graph computes what the model computes, and the model is left as it was."""

import copy

import pytest
import torch
from torch.utils import _pytree as pytree

import upscale_fx
from tests import zoo
from tests.comparison import hooks
from tests.whole.zoo_runs import SIZES, assert_same_on_all_sizes, run


@pytest.fixture(params=zoo.ZOO)
def name(request):
    return request.param


def test_traced_model_is_the_model(name):
    entry, model = zoo.ZOO[name], zoo.make(name)
    traced = upscale_fx.trace(model, example_kwargs=entry.example())
    assert_same_on_all_sizes(model, traced, entry)
    assert run_in_training(model, entry) == run_in_training(traced, entry), "same draws, same statistics"
    assert set(traced.state_dict()) <= set(model.state_dict())


def run_in_training(model, entry):
    """Outputs of two steps in train() and of eval() afterwards, as bytes."""
    model = copy.deepcopy(model).train()
    steps = [run(model, entry, size, seed=seed) for seed, size in enumerate(SIZES)]
    steps.append(run(model.eval(), entry))
    return [leaf.numpy().tobytes() for leaf in pytree.tree_leaves(steps)]


def test_the_model_is_left_as_it_was(name):
    entry, model = zoo.ZOO[name], zoo.make(name)
    for number, module in enumerate(model.modules()):
        module.training = number % 2 == 0  # a mode of its own for every module
    next(model.parameters()).requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    model.register_forward_pre_hook(lambda *_: None)
    before, state = condition(model), copy.deepcopy(model.state_dict())
    upscale_fx.mask(model, 0.5, example_kwargs=entry.example())
    upscale_fx.prune(model, 0.5, example_kwargs=entry.example())
    assert condition(model) == before
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def condition(model):
    """Everything about a model but its values: modes, hooks, identity of parameters, random numbers to come."""
    return (
        hooks(model),
        [(type(m), m.training, sorted(vars(m))) for m in model.modules()],
        [(name, id(p), p.requires_grad, p.grad) for name, p in model.named_parameters()],
        torch.get_rng_state().tolist(),
    )
