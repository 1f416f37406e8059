"""torch.nn.utils.prune, weight and spectral norms and parametrizations on modules of compiled models."""

import copy
import pickle
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, remove_weight_norm, spectral_norm, weight_norm

import upscale_fx
from tests.compiled.layered import MODELS, WAYS, compiled
from tests.selection import every

ALL = list(product(MODELS, WAYS))
METHODS = {
    "l1": lambda module, name: prune.l1_unstructured(module, name, 0.5),
    "random": lambda module, name: prune.random_unstructured(module, name, 0.5),
    "structured": lambda module, name: (
        prune.random_structured(module, name, 0.5, dim=-1)
        if getattr(module, name).dim() > 1
        else prune.l1_unstructured(module, name, 0.5)
    ),
    "own mask": lambda module, name: prune.custom_from_mask(module, name, mask_like(getattr(module, name))),
    "twice": lambda module, name: [prune.l1_unstructured(module, name, 0.3) for _ in range(2)],
}


def mask_like(value):
    """Every other entry."""
    return (torch.arange(value.numel()) % 2).view(value.shape)


def own_parameters(gm):
    """All parameters with the modules that hold them."""
    return [(module, name) for module in gm.modules() for name, _ in list(module.named_parameters(recurse=False))]


def permanent(gm):
    """A copy whose masks are part of its weights, as Lightning's ModelPruning makes them."""
    new = copy.deepcopy(gm)
    for module in new.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, prune.BasePruningMethod):
                hook.remove(module)
                del module._forward_pre_hooks[key]
    return new


@pytest.mark.parametrize(("name", "way"), every(5, ALL))
def test_masked_weights_are_those_that_calls_read(name, way):
    gm, inputs = compiled(name, way)
    model, expected = copy.deepcopy(gm), gm(*inputs)
    torch.manual_seed(0)
    for place, (module, parameter) in enumerate(own_parameters(gm)):
        METHODS[list(METHODS)[place % 5]](module, parameter)
    with torch.no_grad():  # the reference is the graph with weights that are multiplied by hand
        for path, module in model.named_modules():
            for parameter, value in module.named_parameters(recurse=False):
                value.mul_(gm.get_submodule(path).get_buffer(f"{parameter}_mask"))
    actual = gm(*inputs)
    assert torch.allclose(actual, model(*inputs), rtol=1e-12)
    assert not torch.allclose(actual, expected)
    for same in (permanent(gm), copy.deepcopy(gm), pickle.loads(pickle.dumps(gm)), upscale_fx.trace(gm)):
        assert torch.allclose(same(*inputs), actual, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "way"), every(5, ALL))
def test_masked_graphs_train_and_are_analysed_as_they_are_now(name, way):
    gm, inputs = compiled(name, way)
    prune.global_unstructured(own_parameters(gm), prune.L1Unstructured, amount=0.4)
    optimizer = torch.optim.SGD(gm.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        gm(*inputs).square().mean().backward()
        optimizer.step()
    actual = gm(*inputs)
    again = upscale_fx.optimize(upscale_fx.trace(gm))
    assert torch.allclose(again(*inputs), actual, rtol=1e-9, atol=1e-11)
    assert not any("_mask" in key or "_orig" in key for key in again.state_dict())
    other = copy.deepcopy(gm)
    other.load_state_dict(gm.state_dict())
    assert torch.equal(other(*inputs), actual)
    assert upscale_fx.prune(gm, 0.0)(*inputs).shape == actual.shape


NORMS = {
    "weight norm": (parametrizations.weight_norm, parametrize.remove_parametrizations),
    "spectral norm": (parametrizations.spectral_norm, parametrize.remove_parametrizations),
    "doubled": (
        lambda module, name: parametrize.register_parametrization(module, name, Doubled()),
        parametrize.remove_parametrizations,
    ),
    "weight norm in calls": (weight_norm, remove_weight_norm),
}


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, value):
        return 2 * value


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("name", "norm", "way"), every(5, list(product(MODELS, NORMS, WAYS))))
def test_parametrized_weights_are_those_that_calls_read(name, norm, way):
    gm, inputs = compiled(name, way)
    register, remove = NORMS[norm]
    reads = [
        (path, parameter)
        for path, module in gm.named_modules()
        if path
        for parameter, value in module.named_parameters(recurse=False)
        if value.dim() == 2
    ]
    for path, parameter in reads:
        register(gm.get_submodule(path), parameter)
    with torch.no_grad():
        for parameter in gm.parameters():
            parameter.mul_(1.5)
    actual = gm(*inputs)
    assert torch.equal(copy.deepcopy(gm)(*inputs), actual)
    with pytest.raises(upscale_fx.EditedGraphError, match=r"has a parametrization .*make it permanent first"):
        upscale_fx.trace(gm)
    gm(*inputs).sum().backward()
    actual = gm(*inputs)
    for path, parameter in reads:
        remove(gm.get_submodule(path), parameter)
    assert torch.allclose(gm(*inputs), actual, rtol=1e-12)
    assert torch.allclose(upscale_fx.trace(gm)(*inputs), actual, rtol=1e-9, atol=1e-11)


def test_spectral_norm_in_calls_needs_calls():
    gm, inputs = compiled("mixed", "compact")
    expected = gm(*inputs)
    with pytest.raises(upscale_fx.PartError, match=r"use torch\.nn\.utils\.parametrizations\.spectral_norm"):
        spectral_norm(gm.att, "att_src")
    assert torch.equal(gm(*inputs), expected)
    spectral_norm(gm.lin)
    assert not torch.allclose(gm(*inputs), expected)


def test_masks_of_a_shared_module_belong_to_its_first_path():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(16, 16), nn.Linear(16, 4)
            self.second = self.first

        def forward(self, x):
            return self.head(self.second(self.first(x).relu()).relu())

    gm = upscale_fx.trace(Shared().double())
    with pytest.raises(upscale_fx.PartError, match="second path of 'first': add 'weight_orig' to that module"):
        prune.l1_unstructured(gm.second, "weight", 0.5)
    prune.l1_unstructured(gm.first, "weight", 0.5)
    x = torch.randn(10, 16, dtype=torch.float64)
    weight, bias = gm.first.weight_orig * gm.first.weight_mask, gm.first.bias
    hidden = nn.functional.linear(nn.functional.linear(x, weight, bias).relu(), weight, bias).relu()
    assert torch.allclose(gm(x), gm.head(hidden), rtol=1e-12)
