"""UPSCALE's own two-step interface: a manager that masks a model in place, and one that compacts it."""

import copy

import pytest
import torch
from torch import nn

import upscale_fx
from upscale_fx import InputError, MaskingManager, NothingToPruneError, PatternError, PruningManager
from upscale_fx.models import SAGE, GATv2, GraphTransformer, JKNet, SimpleGCN

families = pytest.mark.parametrize("family", [SimpleGCN, SAGE, GATv2, GraphTransformer, JKNet])
DRAW = torch.Generator().manual_seed(0)
X, EDGES = torch.randn(9, 6, generator=DRAW, dtype=torch.float64), torch.randint(9, (2, 20), generator=DRAW)


def build(family=SAGE):
    torch.manual_seed(0)
    return family(6, 16, 3).double().eval()


def equal(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@families
def test_mask_then_prune(family):
    """As in UPSCALE: mask the model in place, then compact what was masked; both compute the same."""
    model, dense = build(family), build(family)
    MaskingManager(model).importance("l1").mask(amount=0.5)
    pruned = PruningManager(model).compute([X, EDGES]).prune()

    masked_output = model(X, EDGES)
    torch.testing.assert_close(pruned(X, EDGES), masked_output, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(dense(X, EDGES), masked_output)
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in model.parameters())
    assert isinstance(pruned, upscale_fx.CompiledGNN)
    assert upscale_fx.verify(model, pruned, (X, EDGES)) < 1e-10


@families
def test_masking_in_place_zeroes_what_mask_zeroes_in_a_copy(family):
    model = build(family)
    expected = upscale_fx.mask(model, 0.5, criterion="l2")
    before = dict(model.named_parameters())
    returned = MaskingManager(model).importance("l2").mask(amount=0.5)
    assert returned is model
    assert equal(model, expected)
    assert all(parameter is before[name] for name, parameter in model.named_parameters()), (
        "parameters stay the same objects"
    )


def test_a_quarter_is_masked_by_l2_unless_told_otherwise():
    expected = upscale_fx.mask(build(), 0.25, criterion="l2")
    assert equal(MaskingManager(build()).mask(), expected)
    assert equal(MaskingManager(build()).importance().mask(), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"inputs": True},
        {"constrained": True},
        {"scope": "global"},
        {"round_to": 4},
        {"ignore": "convs.1"},
        {"amount": {"convs.2": 0.5}},
    ],
    ids=str,
)
def test_masking_takes_the_options_of_mask(options):
    model = build()
    options = {"amount": 0.3, **options}
    expected = upscale_fx.mask(model, **options)
    assert equal(MaskingManager(model).mask(**options), expected)


def test_a_callable_is_a_criterion():
    model = build()
    MaskingManager(model).importance(lambda weight, name: torch.arange(weight.shape[1])).mask(0.25)
    assert (model.convs[1].lin_l.weight == 0).all(dim=0).nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_managers_keep_a_model_trainable():
    model = build().train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    MaskingManager(model).mask(0.5)
    assert model.training
    model(X, EDGES).square().mean().backward()
    optimiser.step()
    pruned = PruningManager(build().train()).compute([X, EDGES]).prune()
    assert pruned.training


def test_pruning_leaves_the_model_alone():
    model = MaskingManager(build()).mask(0.5)
    before = copy.deepcopy(model)
    PruningManager(model).compute([X, EDGES]).prune()
    assert equal(model, before)


def test_pruning_before_computing_is_an_error():
    with pytest.raises(InputError, match=r"compute\(\[x, edge_index\]\) before prune\(\)"):
        PruningManager(build()).prune()


@pytest.mark.parametrize("inputs", [[X], [X[:, :5], EDGES], [X, EDGES, EDGES]], ids=["missing", "width", "extra"])
def test_computing_on_inputs_that_do_not_fit_is_an_error(inputs):
    with pytest.raises(InputError):
        PruningManager(build()).compute(inputs).prune()


def test_computing_takes_tuples_too():
    pruned = PruningManager(MaskingManager(build()).mask(0.5)).compute((X, EDGES)).prune()
    assert pruned(X, EDGES).shape == (9, 3)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda manager: manager.mask(1.0), ValueError),
        (lambda manager: manager.importance("l3").mask(0.5), PatternError),
        (lambda manager: manager.mask(0.5, ignore="nobody"), PatternError),
        (lambda manager: manager.mask(0.001), NothingToPruneError),
        (lambda manager: manager.importance(lambda weight, name: weight.sum(1)).mask(0.5), ValueError),
        (lambda manager: manager.mask(0.5, unknown=True), TypeError),
    ],
    ids=["amount", "criterion", "ignore", "nothing", "scores", "option"],
)
def test_a_refused_mask_leaves_the_model_unchanged(call, error):
    model = build()
    with pytest.raises(error):
        call(MaskingManager(model))
    assert equal(model, build())


class OtherNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = SAGE(6, 16, 3)

    def forward(self, features, edges):
        return self.inner(features, edges)


def test_example_inputs_serve_models_with_names_of_their_own():
    torch.manual_seed(0)
    model = OtherNames().double().eval()
    with pytest.raises(InputError, match="'features'"):
        MaskingManager(model).mask(0.5)
    MaskingManager(model, (X, EDGES)).mask(0.5)
    pruned = PruningManager(model).compute([X, EDGES]).prune()
    torch.testing.assert_close(pruned(X, EDGES), model(X, EDGES))


def test_masks_of_torch_are_masked_on():
    """The weight such a model computes with becomes zero, also after its masks are made permanent."""
    model = build()
    nn.utils.prune.random_unstructured(model.convs[1].lin_l, "weight", amount=0.1)
    expected = upscale_fx.mask(model, 0.5)
    MaskingManager(model).mask(0.5)
    torch.testing.assert_close(model(X, EDGES), expected(X, EDGES))
