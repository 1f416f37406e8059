"""Every model of the zoo, traced: the graph computes what the model computes, and the model is left as it was."""

import copy

import pytest
from torch.utils import _pytree as pytree

import upscale_fx
from tests import zoo
from tests.selection import every
from tests.whole.zoo_runs import SIZES, assert_same_on_all_sizes, run


@pytest.fixture(params=every(5, zoo.ZOO, start=1))  # of the others, make test looks at what is pruned
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
