"""What masking zeroes: exact counts, deterministic choices, and nothing but what was asked for."""

import copy
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.nn import GATv2Conv, GCNConv

import upscale_fx
from tests.masking.zeros import HIDDEN_READERS, RAW_READERS, fill_weights, sage, zero_columns, zero_counts
from tests.networks import Stack
from upscale_fx import criteria
from upscale_fx.models import SAGE, GATv2, GraphTransformer, JKNet, SimpleGCN

pytestmark = pytest.mark.usefixtures("seeded")


# Counts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "amount", "removed"),
    [
        (16, 0.25, 4),
        (16, 0.5, 8),
        (16, 0.75, 12),
        (16, 0.999, 15),  # never all of them
        (2, 0.9, 1),
        (3, 0.25, 1),
        (7, 0.5, 4),  # 3.5: halves round to even, as Python's round does
        (5, 0.5, 2),  # 2.5
        (10, 0.25, 2),  # 2.5
        (10, 0.35, 4),  # 3.5
        (10, 0.05, 0),  # 0.5
        (33, 0.75, 25),
        (100, 0.29, 29),  # 28.999999999999996 in floating point
    ],
)
def test_every_consumer_loses_the_rounded_share_and_never_everything(width, amount, removed):
    model = SAGE(6, width, 3)
    if not removed:
        with pytest.raises(upscale_fx.NothingToPruneError):
            upscale_fx.mask(model, amount)
        return
    masked = upscale_fx.mask(model, amount)
    assert zero_counts(masked, HIDDEN_READERS) == [removed] * 4
    assert zero_counts(masked, RAW_READERS) == [0, 0]


@pytest.mark.parametrize("number", [0.5, np.float32(0.5), np.float64(0.5), Fraction(1, 2)], ids=repr)
def test_an_amount_is_any_real_number(number):
    assert zero_counts(upscale_fx.mask(sage(), number), HIDDEN_READERS) == [8] * 4


@pytest.mark.parametrize("amount", [0, 0.0, {"*": 0.0}, {}])
def test_amount_zero_changes_nothing(amount):
    model = sage()
    masked = upscale_fx.mask(model, amount)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in masked.state_dict().items())


def test_consumers_of_one_tensor_choose_on_their_own():
    masked = upscale_fx.mask(sage(), 0.5)
    assert zero_columns(masked, "convs.1.lin_l") != zero_columns(masked, "convs.1.lin_r")


def test_the_mask_is_really_applied():
    model = sage().eval()
    inputs = torch.randn(9, 6), torch.randint(9, (2, 20))
    assert not torch.allclose(model(*inputs), upscale_fx.mask(model, 0.5)(*inputs), atol=1e-3)


def test_masking_twice_by_magnitude_is_masking_once():
    once = upscale_fx.mask(sage(), 0.5)
    twice = upscale_fx.mask(once, 0.5)
    assert all(torch.equal(value, once.state_dict()[name]) for name, value in twice.state_dict().items())


def test_a_pruned_model_counts_from_what_it_has_left():
    compiled = upscale_fx.prune(sage(), 0.5)
    again = upscale_fx.mask(compiled, 0.5)
    assert [again.get_parameter(f"{name}.weight").shape[1] for name in HIDDEN_READERS] == [8] * 4
    assert zero_counts(again, HIDDEN_READERS) == [4] * 4
    assert zero_counts(compiled, HIDDEN_READERS) == [0] * 4


def test_a_layer_called_twice_is_one_consumer():
    shared = GCNConv(10, 10)
    model = Stack(GCNConv(6, 10), shared, shared, GCNConv(10, 3))
    masked = upscale_fx.mask(model, 0.5)
    assert masked.convs[1] is masked.convs[2]
    assert zero_counts(masked, ["convs.1.lin", "convs.3.lin"]) == [5, 5]
    with pytest.raises(upscale_fx.PatternError, match=r"valid names: \['convs.0.lin', 'convs.1.lin', 'convs.3.lin'\]"):
        upscale_fx.mask(model, 0.5, ignore="nothing")


# Ties and repetition -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm"])
@pytest.mark.parametrize("width", [8, 33])
def test_of_equal_channels_the_first_go(criterion, width):
    model = fill_weights(sage(width), 0.5)
    masked = upscale_fx.mask(model, 0.25, criterion=criterion)
    removed = set(range(round(0.25 * width)))
    assert [zero_columns(masked, name) for name in HIDDEN_READERS] == [removed] * 4


@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_equal_columns_of_any_numbers_score_equal(criterion):
    """Rounding must not tell equal channels apart, wherever they stand in the matrix."""
    model = sage(37)
    with torch.no_grad():
        for name in HIDDEN_READERS:
            weight = model.get_parameter(f"{name}.weight")
            weight.copy_(torch.randn(len(weight), 1).expand_as(weight))
    masked = upscale_fx.mask(model, 0.5, criterion=criterion)
    assert [zero_columns(masked, name) for name in HIDDEN_READERS] == [set(range(18))] * 4


def test_of_equal_channels_the_first_of_each_head_go():
    model = fill_weights(Stack(GATv2Conv(6, 5, heads=3), GCNConv(15, 3)), 1.0)
    masked = upscale_fx.mask(model, 0.5)
    assert zero_columns(masked, "convs.1.lin") == {0, 1, 5, 6, 10, 11}
    assert masked.convs[0].att.tolist() == [[[0, 0, 1, 1, 1]] * 3]


@pytest.mark.parametrize("criterion", sorted(criteria.CRITERIA))
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_masking_is_repeatable(criterion, scope):
    model = sage()
    torch.manual_seed(1)
    first = upscale_fx.mask(model, 0.5, criterion=criterion, scope=scope).state_dict()
    torch.manual_seed(2)
    second = upscale_fx.mask(model, 0.5, criterion=criterion, scope=scope).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


# The masked model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [SimpleGCN, SAGE, GATv2, GraphTransformer, JKNet])
@pytest.mark.parametrize("training", [True, False])
def test_a_masked_model_is_the_model_with_zeros(family, training):
    model = family(6, 16, 3).train(training)
    model.convs[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    masked = upscale_fx.mask(model, 0.5)

    assert type(masked) is family
    assert [name for name, _ in masked.named_modules()] == [name for name, _ in model.named_modules()]
    assert [module.training for module in masked.modules()] == [module.training for module in model.modules()]
    for name, parameter in masked.named_parameters():
        assert parameter.requires_grad == model.get_parameter(name).requires_grad
        assert ((parameter == before[name]) | (parameter == 0)).all(), "nothing but zeros differs"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "the model is untouched"
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in masked.parameters()}
    assert not shared, "no memory is shared"


def test_masking_leaves_the_random_state_alone():
    model = GATv2(6, 16, 3).train()
    before = torch.get_rng_state()
    upscale_fx.mask(model, 0.5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_masked_model_keeps_its_hooks():
    model, calls = sage(), []
    model.register_forward_hook(lambda *_: calls.append("called"))
    masked = upscale_fx.mask(model, 0.5)
    calls.clear()
    masked(torch.randn(9, 6), torch.randint(9, (2, 20)))
    assert calls == ["called"]


def test_masks_of_torch_become_part_of_the_weights():
    model = sage()
    nn.utils.prune.ln_structured(model.convs[1].lin_l, "weight", amount=0.5, n=2, dim=1)
    masked = upscale_fx.mask(model, 0.75)
    assert "convs.1.lin_l.weight" in dict(masked.named_parameters())
    assert zero_counts(masked, HIDDEN_READERS) == [12] * 4
    assert hasattr(model.convs[1].lin_l, "weight_orig"), "the original keeps its re-parametrisation"
