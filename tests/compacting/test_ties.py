"""Parameters that layers of a model share stay one in the compiled model, or a warning names those that do not."""

import copy
import warnings

import pytest
import torch

import upscale_fx
from tests.compacting.tied_models import MODELS, READS, WIDTH, CellAndLayer, Reads
from tests.networks import random_graph

INPUTS = random_graph(14, 40, WIDTH)


def made(name):
    torch.manual_seed(0)
    return MODELS[name]().double().train()


def step(module):
    """One step of gradient descent."""
    optimizer = torch.optim.SGD(module.parameters(), 0.05)
    module(*INPUTS).square().sum().backward()
    optimizer.step()


def removed(model, masked, compiled):
    """By name which entries masks removed from the compiled model; those that are still there train like others."""
    whole, now = dict(model.named_parameters()), dict(compiled.named_parameters())
    return {
        key: (value == 0) & (whole[key] != 0) & (key not in now or now[key].shape != value.shape)
        for key, value in masked.named_parameters()
    }


def several(module):
    """The names of parameters with several names, each group in order."""
    names = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "GRU and linear layer"])
def test_what_is_one_parameter_in_the_model_is_one_in_the_compiled_model(name, fuse):
    model = made(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*could not be removed", category=upscale_fx.UpscaleWarning)
        compiled, masked = (
            upscale_fx.prune(model, 0.5, fuse=fuse, example_inputs=INPUTS),
            upscale_fx.mask(model, 0.5, example_inputs=INPUTS),
        )
    assert sum(p.numel() for p in compiled.parameters()) < sum(p.numel() for p in model.parameters())
    zero = removed(model, masked, compiled)
    for _ in range(2):
        torch.testing.assert_close(compiled(*INPUTS), masked(*INPUTS), rtol=1e-9, atol=1e-11)
        step(compiled)
        step(masked)
        with torch.no_grad():
            for key, value in masked.named_parameters():
                value[zero[key]] = 0  # masks stay
    torch.testing.assert_close(compiled(*INPUTS), masked(*INPUTS), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["GRUs, all", "GRUs, input weights", "LSTMs, both directions", "batch norms"])
def test_ties_outlive_copies_states_and_a_second_pruning(name):
    compiled = upscale_fx.prune(made(name), 0.3)
    assert several(compiled)
    assert several(copy.deepcopy(compiled)) == several(compiled)
    again = upscale_fx.prune(compiled, 0.5)
    assert several(again) == several(compiled)
    other = upscale_fx.prune(made(name), 0.3)
    step(compiled)
    other.load_state_dict(compiled.state_dict())
    torch.testing.assert_close(other.eval()(*INPUTS), compiled.eval()(*INPUTS))


def test_what_cannot_stay_one_parameter_is_named():
    torch.manual_seed(0)
    model = CellAndLayer(before=True).double()
    with pytest.warns(upscale_fx.UpscaleWarning, match=r"(weight|_l0) and .*(weight|_l0) are one parameter.*ignore="):
        compiled = upscale_fx.prune(model, 0.5)
    masked = upscale_fx.mask(model, 0.5)
    torch.testing.assert_close(compiled(*INPUTS), masked(*INPUTS), rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*could not be removed:upscale_fx.UpscaleWarning")
def test_a_weight_of_a_called_layer_that_another_layer_has_too_stays_that_of_the_layer():
    model = made("GRU and linear layer")
    masked, compiled = upscale_fx.mask(model, 0.5), upscale_fx.prune(model, 0.5)
    torch.testing.assert_close(compiled(*INPUTS), masked(*INPUTS), rtol=1e-10, atol=1e-12)
    names = [name for name, _ in compiled.named_parameters(remove_duplicate=False)]
    assert "rnn.weight_ih_l0" in names
    assert "lin.weight" not in names


@pytest.mark.parametrize("what", READS)
@pytest.mark.filterwarnings("ignore:.*could not be removed:upscale_fx.UpscaleWarning")
def test_tensors_of_layers_that_the_model_reads_besides_stay_those_of_the_layer(what):
    torch.manual_seed(0)
    model = Reads(READS[what]).double().eval()
    masked, compiled = upscale_fx.mask(model, 0.5), upscale_fx.prune(model, 0.5)
    torch.testing.assert_close(compiled(*INPUTS), masked(*INPUTS), rtol=1e-10, atol=1e-12)
    assert sum(p.numel() for p in compiled.parameters()) < sum(p.numel() for p in model.parameters())
    if what == "input weights":
        return  # what masks removed for the linear layer, the GRU still reads and trains
    zero = removed(model, masked, compiled)
    for module in (masked, compiled):
        optimizer = torch.optim.SGD(module.parameters(), 0.01)
        module(*INPUTS).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        for key, value in masked.named_parameters():
            value[zero[key]] = 0  # masks stay
    torch.testing.assert_close(compiled(*INPUTS), masked(*INPUTS), rtol=1e-9, atol=1e-11)
