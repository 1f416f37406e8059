"""Which consumers lose channels: by name, ignored, reading raw inputs, constrained, in one scope, in multiples."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import GATConv, GCNConv, SAGEConv

import upscale_fx
from tests.masking.zeros import (
    HIDDEN_READERS,
    RAW_READERS,
    columns_l2,
    fill_weights,
    per_head,
    sage,
    zero_columns,
    zero_counts,
)
from tests.networks import Residual, Stack
from upscale_fx.models import GraphTransformer, JKNet, SimpleGCN

pytestmark = pytest.mark.usefixtures("seeded")


class RawBesideHidden(nn.Module):
    """The head reads 6 raw and 10 hidden channels side by side."""

    def __init__(self, raw_first=True):
        super().__init__()
        self.conv, self.head, self.raw_first = GCNConv(6, 10), nn.Linear(16, 3), raw_first

    def forward(self, x, edge_index):
        parts = [x, self.conv(x, edge_index).relu()]
        return self.head(torch.cat(parts if self.raw_first else parts[::-1], dim=-1))


# Which consumers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "removed"),
    [
        ({"convs.1.lin_l": 0.25}, [4, 0, 0, 0]),
        ({"convs.1": 0.25}, [4, 4, 0, 0]),  # a module stands for all its layers
        ({"convs.*.lin_r": 0.5}, [0, 8, 0, 8]),
        ({"convs.?.lin_[l]": 0.5}, [8, 0, 8, 0]),
        ({"*": 0.5, "convs.2": 0.25}, [8, 8, 4, 4]),  # the last match counts
        ({"convs.2": 0.25, "*": 0.5}, [8, 8, 8, 8]),
        ({"convs": 0.5, "convs.1.lin_r": 0}, [8, 0, 8, 8]),
    ],
    ids=str,
)
def test_amounts_by_name(amount, removed):
    assert zero_counts(upscale_fx.mask(sage(), amount), HIDDEN_READERS) == removed


@pytest.mark.parametrize(
    ("ignore", "removed"),
    [
        ((), [8, 8, 8, 8]),
        ("convs.1.lin_l", [0, 8, 8, 8]),
        ("convs.1", [0, 0, 8, 8]),
        ("*.lin_r", [8, 0, 8, 0]),
        (["convs.1.lin_l", "convs.2.*"], [0, 8, 0, 0]),
        (("convs.2.lin_r", "convs.2.lin_r"), [8, 8, 8, 0]),
    ],
    ids=str,
)
def test_ignored_consumers_keep_everything(ignore, removed):
    model = sage()
    masked = upscale_fx.mask(model, 0.5, ignore=ignore)
    assert zero_counts(masked, HIDDEN_READERS) == removed
    untouched = [name for name, count in zip(HIDDEN_READERS, removed, strict=True) if not count]
    assert all(torch.equal(masked.get_submodule(n).weight, model.get_submodule(n).weight) for n in untouched)


def test_a_name_prefix_ends_at_a_dot():
    """``convs.1`` is not ``convs.10``."""
    model = SimpleGCN(6, 8, 3, num_layers=12)
    masked = upscale_fx.mask(model, {"convs.1": 0.5})
    assert [n for n in range(12) if zero_columns(masked, f"convs.{n}.lin")] == [1]


def test_attention_products_are_addressed_by_name():
    model = GraphTransformer(6, 16, 3, num_layers=2)
    masked = upscale_fx.mask(model, {"convs.0.lin_query@convs.0.lin_key": 0.5})
    changed = [n for n, value in masked.state_dict().items() if not torch.equal(value, model.state_dict()[n])]
    assert changed == [f"convs.0.lin_{side}.{kind}" for side in ("key", "query") for kind in ("weight", "bias")]


def test_raw_inputs_are_read_whole_unless_asked():
    assert zero_counts(upscale_fx.mask(sage(), 0.5), RAW_READERS) == [0, 0]
    assert zero_counts(upscale_fx.mask(sage(), 0.5, inputs=True), RAW_READERS) == [3, 3]


@pytest.mark.parametrize(("raw_first", "raw"), [(True, range(6)), (False, range(10, 16))])
def test_beside_raw_inputs_only_the_hidden_part_counts(raw_first, raw):
    model = RawBesideHidden(raw_first)
    gone = zero_columns(upscale_fx.mask(model, 0.5), "head")
    assert len(gone) == round(0.5 * 10)
    assert gone.isdisjoint(raw)


def test_with_inputs_raw_and_hidden_columns_count_together():
    model = RawBesideHidden()
    assert zero_counts(upscale_fx.mask(model, 0.5, inputs=True), ["conv.lin", "head"]) == [3, 8]


def test_raw_columns_can_be_the_ones_that_go():
    model = RawBesideHidden()
    with torch.no_grad():
        model.head.weight[:, :6] *= 1e-3
    assert zero_columns(upscale_fx.mask(model, 0.375, inputs=True), "head") == set(range(6))


# Constrained ---------------------------------------------------------------------------------------------------------


def test_constrained_consumers_of_a_tensor_share_one_set():
    masked = upscale_fx.mask(sage(), 0.5, constrained=True)
    assert zero_counts(masked, HIDDEN_READERS) == [8] * 4
    assert zero_columns(masked, "convs.1.lin_l") == zero_columns(masked, "convs.1.lin_r")
    assert zero_columns(masked, "convs.2.lin_l") == zero_columns(masked, "convs.2.lin_r")
    assert zero_columns(masked, "convs.1.lin_l") != zero_columns(masked, "convs.2.lin_l")


def test_constrained_residual_network_has_one_set():
    model = Residual(6, 16, 3)
    free = upscale_fx.mask(model, 0.25)
    tied = upscale_fx.mask(model, 0.25, constrained=True)
    assert len({frozenset(zero_columns(free, name)) for name in model.readers}) > 1
    (shared,) = {frozenset(zero_columns(tied, name)) for name in model.readers}
    assert len(shared) == 4


def test_constrained_concatenation_has_one_set_for_each_part():
    masked = upscale_fx.mask(JKNet(6, 16, 3), 0.5, constrained=True)
    head = zero_columns(masked, "lin")
    parts = [{c - 16 * i for c in head if c // 16 == i} for i in range(3)]
    assert [len(part) for part in parts] == [8, 8, 8]
    assert parts[0] == zero_columns(masked, "convs.1.lin")
    assert parts[1] == zero_columns(masked, "convs.2.lin")


def test_constrained_heads_lose_equally_many():
    model = Stack(GATConv(6, 5, heads=3), SAGEConv(15, 3))
    masked = upscale_fx.mask(model, 0.5, constrained=True)
    gone = zero_columns(masked, "convs.1.lin_l")
    assert gone == zero_columns(masked, "convs.1.lin_r")
    assert per_head(gone, 3, 5) == [2, 2, 2]


def test_constrained_channels_that_an_ignored_consumer_reads_stay():
    masked = upscale_fx.mask(sage(), 0.5, constrained=True, ignore="convs.1.lin_r")
    assert zero_counts(masked, HIDDEN_READERS) == [0, 0, 8, 8]


def test_constrained_consumers_agree_on_the_least_amount():
    masked = upscale_fx.mask(sage(), {"*": 0.5, "convs.1.lin_r": 0.25}, constrained=True)
    assert zero_counts(masked, HIDDEN_READERS) == [4, 4, 8, 8]
    assert zero_columns(masked, "convs.1.lin_l") == zero_columns(masked, "convs.1.lin_r")


def test_constrained_consumers_weigh_in_whatever_the_size_of_their_weights():
    """A channel that one reader can do without stays if another cannot, however small the other's numbers are."""
    model = sage(4)
    with torch.no_grad():
        model.convs[1].lin_l.weight.copy_(torch.tensor([10.0, 10.1, 10.2, 10.3]).expand(4, 4))
        model.convs[1].lin_r.weight.copy_(torch.tensor([0.04, 0.03, 0.01, 0.01]).expand(4, 4))
    masked = upscale_fx.mask(model, {"convs.1": 0.5}, constrained=True)
    assert zero_columns(masked, "convs.1.lin_l") == zero_columns(masked, "convs.1.lin_r") == {2, 3}


# Scope and round_to --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [0.1, 0.25, 0.5, 0.77])
def test_global_scope_removes_the_share_of_all_channels_together(amount):
    masked = upscale_fx.mask(sage(), amount, scope="global")
    assert sum(zero_counts(masked, HIDDEN_READERS)) == round(amount * 4 * 16)


def test_global_scope_lets_layers_differ():
    model = sage()
    with torch.no_grad():
        model.convs[1].lin_l.weight *= 0.01
    counts = zero_counts(upscale_fx.mask(model, 0.25, scope="global"), HIDDEN_READERS)
    assert counts == [15, *counts[1:]], "the layer that matters least loses most, but never its last channel"
    assert sum(counts) == 16


def test_global_scope_picks_the_lowest_scores_of_all():
    model = sage()
    scores = {name: columns_l2(model.get_submodule(name).weight) for name in HIDDEN_READERS}
    # The best channel of every layer stays, whatever its score.
    eligible = [(score, n, c) for n, own in scores.items() for c, score in enumerate(own) if score < max(own)]
    lowest = {(n, c) for _, n, c in sorted(eligible)[:32]}
    masked = upscale_fx.mask(model, 0.5, scope="global")
    assert {(n, c) for n in HIDDEN_READERS for c in zero_columns(masked, n)} == lowest


def test_global_scope_takes_equally_many_of_each_head():
    model = Stack(GATConv(6, 5, heads=3), GATConv(15, 4, heads=2), GCNConv(8, 3))
    masked = upscale_fx.mask(model, 0.5, scope="global")
    assert len(set(per_head(zero_columns(masked, "convs.1.lin"), 3, 5))) == 1
    assert len(set(per_head(zero_columns(masked, "convs.2.lin"), 2, 4))) == 1


def test_global_scope_with_amounts_by_name_leaves_the_others_alone():
    counts = zero_counts(upscale_fx.mask(sage(), {"convs.1": 0.5}, scope="global"), HIDDEN_READERS)
    assert (sum(counts), counts[2:]) == (16, [0, 0])


def test_global_constrained_scope_shares_sets():
    masked = upscale_fx.mask(sage(), 0.5, scope="global", constrained=True)
    first, second = zero_columns(masked, "convs.1.lin_l"), zero_columns(masked, "convs.2.lin_l")
    assert (first, second) == (zero_columns(masked, "convs.1.lin_r"), zero_columns(masked, "convs.2.lin_r"))
    assert len(first) + len(second) == round(0.5 * 2 * 16)


@pytest.mark.parametrize(
    ("width", "amount", "round_to", "kept"),
    [
        (16, 0.3, 1, 11),
        (16, 0.3, 4, 12),
        (16, 0.5, 8, 8),
        (16, 0.6, 8, 8),
        (16, 0.9, 16, 16),  # the only multiple is everything
        (10, 0.5, 4, 8),
        (12, 0.99, 5, 5),
    ],
)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_round_to_keeps_a_multiple_and_removes_no_more_than_asked(width, amount, round_to, kept, scope):
    model = fill_weights(SimpleGCN(6, width, 3, num_layers=2), 1.0)
    if kept == width:
        with pytest.raises(upscale_fx.NothingToPruneError, match=r"convs.1.lin .*round_to"):
            upscale_fx.mask(model, amount, round_to=round_to, scope=scope)
        return
    masked = upscale_fx.mask(model, amount, round_to=round_to, scope=scope)
    assert width - len(zero_columns(masked, "convs.1.lin")) == kept


def test_round_to_counts_in_each_head():
    model = Stack(GATConv(6, 10, heads=2), GCNConv(20, 3))
    gone = zero_columns(upscale_fx.mask(model, 0.5, round_to=4), "convs.1.lin")
    assert per_head(gone, 2, 10) == [2, 2]


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("constrained", [True, False])
def test_round_to_goes_with_every_other_option(scope, constrained):
    masked = upscale_fx.mask(sage(20), 0.4, round_to=5, scope=scope, constrained=constrained)
    counts = zero_counts(masked, HIDDEN_READERS)
    assert all((20 - count) % 5 == 0 for count in counts)
    assert 0 < sum(counts) <= round(0.4 * 80)
