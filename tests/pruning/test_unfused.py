"""``fuse=False``: the same model, cleaned and compacted, with torch's own calls instead of fused operators."""

import pytest
import torch
from torch import nn

import upscale_fx
from tests.comparison import assert_same
from tests.networks import FAMILIES, random_graph
from tests.selection import every
from upscale_fx.compiled.module import unfused

EXAMPLE = random_graph(12, 40, 12, 1)


def made(family):
    torch.manual_seed(0)
    return family(12, 16, 4).double().eval()


def operators(gm):
    calls = [node.target for node in gm.graph.nodes if node.op == "call_function"]
    return [target for target in calls if getattr(target, "__module__", "").startswith("upscale_fx.operators")]


def arguments():
    x, edges = EXAMPLE
    return x.double(), edges


@pytest.mark.parametrize("family", every(2, FAMILIES))
def test_it_is_the_fused_model_without_its_operators(family):
    model = made(family)
    fused = upscale_fx.prune(model, 0.5, example_inputs=arguments())
    plain = upscale_fx.prune(model, 0.5, example_inputs=arguments(), fuse=False)
    assert operators(fused)
    assert not operators(plain)
    assert_same(fused(*arguments()), plain(*arguments()))
    assert {n: p.shape for n, p in fused.named_parameters()} == {n: p.shape for n, p in plain.named_parameters()}
    assert unfused(plain) is plain
    again = upscale_fx.optimize(plain)
    assert operators(again) == operators(fused)
    assert not operators(upscale_fx.optimize(fused, fuse=False))


@pytest.mark.parametrize("options", [{"steps": 3}, {"constrained": True}, {"approximate_norms": True}], ids=str)
def test_every_way_of_pruning_takes_it(options):
    plain = upscale_fx.prune(made(FAMILIES[1]), 0.5, example_inputs=arguments(), fuse=False, **options)
    assert unfused(plain) is plain
    assert "kernels" not in str(upscale_fx.report(plain))


def test_inference_and_precision_go_with_it():
    model = nn.ModuleList([made(FAMILIES[0])])[0]
    expected = model(*arguments())
    plain = upscale_fx.optimize(model, example_inputs=arguments(), inference=True, fuse=False)
    assert_same(expected, plain(*arguments()))
    with pytest.raises(upscale_fx.ModeError):
        plain.train()
    single = upscale_fx.optimize(model, example_inputs=arguments(), dtype=torch.float32, fuse=False)
    assert_same(expected, single(*arguments()), 1e-5)


def test_second_derivatives():
    """Through a max and through attention, which fused operators do not have."""
    for family in FAMILIES:
        model = made(family)
        plain = upscale_fx.prune(model, 0.5, example_inputs=arguments(), fuse=False)
        masked = upscale_fx.mask(model, 0.5, example_inputs=arguments())
        found = []
        for module in (masked, plain):
            x, edges = arguments()
            x.requires_grad_()
            (first,) = torch.autograd.grad(module(x, edges).square().sum(), x, create_graph=True)
            found.append(torch.autograd.grad(first.square().sum(), x)[0])
        assert_same(*found)
