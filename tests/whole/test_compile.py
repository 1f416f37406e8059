"""Compiled models stay models: ``torch.compile`` takes them whole, and they train like the masked model does."""

import copy
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend

import upscale_fx
from tests import zoo
from tests.networks import FAMILIES, random_graph
from tests.selection import every, only
from upscale_fx.models import SAGE, JKNet, SimpleGCN

SIZES = ((23, 70), (40, 31), (57, 200))  # nodes, edges

#: Inductor writes C++, which a machine with only Python cannot build; aot_eager shows all but that.
BACKENDS = [(family, "aot_eager") for family in FAMILIES]
if any(map(shutil.which, ("g++", "c++", "clang++"))):
    BACKENDS.append((SAGE, "inductor"))

families = pytest.mark.parametrize("family", FAMILIES)


def build(family):
    torch.manual_seed(0)
    model = family(12, 16, 5, dropout=0.0).double().eval()
    zoo.randomise(model)  # biases start at zero, all alike
    return model


def graph(nodes, edges, seed=1):
    return random_graph(nodes, edges, 12, seed)


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize(("family", "backend"), every(2, BACKENDS, start=1))
def test_torch_compile_takes_the_whole_graph_once(family, backend):
    compiled = upscale_fx.prune(build(family), 0.5)
    counter = CompileCounterWithBackend(backend)
    fast = torch.compile(compiled, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for size in SIZES:
            expected, found = compiled(*graph(*size)), fast(*graph(*size))
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert counter.frame_count == 1, "one graph for all sizes"


@families
def test_five_steps_lower_the_loss(family):
    compiled = upscale_fx.prune(build(family), 0.5).train()
    x, edge_index = graph(40, 120)
    target = torch.arange(40) % 5
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.1)
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(compiled(x, edge_index), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 1e-3
    assert all(parameter.requires_grad for parameter in compiled.parameters())


@pytest.mark.parametrize("amount", only([0.5], [0.25, 0.5, 0.75]))
@families
def test_gradients_are_those_of_the_masked_model(family, amount):
    """Same gradient at the input, and of every parameter that is left as it was."""
    model = build(family)
    masked, pruned = upscale_fx.mask(model, amount), upscale_fx.prune(model, amount)
    grown = {}
    for module in (masked, pruned):
        x, edge_index = graph(40, 120)
        module(x.requires_grad_(), edge_index).square().sum().backward()
        grown[module] = x.grad
    torch.testing.assert_close(grown[pruned], grown[masked], rtol=1e-9, atol=1e-10)
    kept = dict(masked.named_parameters())
    same = [(kept[name].grad, p.grad) for name, p in pruned.named_parameters() if torch.equal(kept[name], p)]
    assert same
    for expected, found in same:
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("family", [SimpleGCN, SAGE, JKNet])
def test_a_step_on_the_pruned_model_is_a_step_on_the_masked_one(family):
    """Fine-tuning with the mask held moves the outputs alike: kept parameters have the masked model's gradient.

    Not so where heads were padded: a padded channel is a parameter that may grow again.
    """
    model = build(family)
    masked, pruned = upscale_fx.mask(model, 0.5), upscale_fx.prune(model, 0.5)
    held = {name: p.eq(model.get_parameter(name)) for name, p in masked.named_parameters()}
    for module in (masked, pruned):
        module.train()(*graph(40, 120)).square().mean().backward()
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.sub_(0.05 * (p.grad * held[name] if module is masked else p.grad))
    torch.testing.assert_close(pruned(*graph(23, 70)), masked(*graph(23, 70)), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["residual-batch-norm", "mlp-head-pyg", "basic-GIN-max-batch_norm"])
def test_batch_norm_still_learns_its_statistics(name):
    entry = zoo.ZOO[name]
    model = zoo.make(name)
    masked, pruned = upscale_fx.mask(zoo.without_dropout(model), 0.5), upscale_fx.prune(zoo.without_dropout(model), 0.5)
    before = copy.deepcopy(pruned.state_dict())
    for seed in range(3):
        for module in (masked, pruned):
            module.train()(**entry.inputs(23, 70, seed=seed))
    assert any(not torch.equal(v, before[k]) for k, v in pruned.state_dict().items() if "running_" in k)
    inputs = entry.inputs(40, 120)
    torch.testing.assert_close(pruned.eval()(**inputs), masked.eval()(**inputs), rtol=1e-9, atol=1e-10)
