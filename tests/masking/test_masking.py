"""What masking zeroes: exact counts, deterministic choices, and nothing but what was asked for."""

import copy
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.nn import BatchNorm, GATConv, GATv2Conv, GCNConv, SAGEConv, TransformerConv

import upscale_fx
from upscale_fx import criteria
from upscale_fx.models import SAGE, GATv2, GraphTransformer, JKNet, SimpleGCN

HIDDEN_READERS = ("convs.1.lin_l", "convs.1.lin_r", "convs.2.lin_l", "convs.2.lin_r")
RAW_READERS = ("convs.0.lin_l", "convs.0.lin_r")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def sage(width=16):
    """Four consumers of hidden channels, ``HIDDEN_READERS``, and two of raw ones."""
    return SAGE(6, width, 3)


class Stack(nn.Module):
    """Layers that take ``(x, edge_index)``, with relu between them."""

    def __init__(self, *layers):
        super().__init__()
        self.convs = nn.ModuleList(layers)

    def forward(self, x, edge_index):
        *hidden, last = self.convs
        for layer in hidden:
            x = layer(x, edge_index).relu()
        return last(x, edge_index)


class Residual(nn.Module):
    """``h + conv(h)`` twice: three layers read channels of one and the same tensor."""

    readers = ("convs.0.lin", "convs.1.lin", "head")

    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Linear(6, width)
        self.convs = nn.ModuleList([GCNConv(width, width), GCNConv(width, width)])
        self.head = nn.Linear(width, 3)

    def forward(self, x, edge_index):
        h = self.stem(x)
        for conv in self.convs:
            h = h + conv(h, edge_index).relu()
        return self.head(h)


class RawBesideHidden(nn.Module):
    """The head reads 6 raw and 10 hidden channels side by side."""

    def __init__(self, raw_first=True):
        super().__init__()
        self.conv, self.head, self.raw_first = GCNConv(6, 10), nn.Linear(16, 3), raw_first

    def forward(self, x, edge_index):
        parts = [x, self.conv(x, edge_index).relu()]
        return self.head(torch.cat(parts if self.raw_first else parts[::-1], dim=-1))


def zero_columns(model, layer):
    """Input channels of a layer whose whole column is zero, as a set."""
    weight = model.get_parameter(f"{layer}.weight")
    return set((weight == 0).all(dim=0).nonzero().flatten().tolist())


def zero_rows(layer):
    """Output channels of a layer that it leaves at zero, bias included, as a set."""
    return set(((layer.weight == 0).all(dim=1) & (layer.bias == 0)).nonzero().flatten().tolist())


def zero_counts(model, layers):
    return [len(zero_columns(model, layer)) for layer in layers]


def fill_weights(model, value):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.fill_(value)
    return model


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


# Heads ---------------------------------------------------------------------------------------------------------------


def per_head(channels, heads, width):
    """How many of the given channels of ``[heads, width]`` lie in each head."""
    return np.bincount([channel // width for channel in channels], minlength=heads).tolist()


@pytest.mark.parametrize(
    ("heads", "width", "amount", "removed"), [(3, 5, 0.5, 2), (2, 4, 0.25, 1), (4, 4, 0.75, 3), (2, 3, 0.99, 2)]
)
class TestHeads:
    """In a layer with heads, every head loses ``round(amount * C)`` of its own C channels."""

    def test_the_reader_of_concatenated_heads(self, heads, width, amount, removed):
        model = Stack(GATConv(6, width, heads=heads), GCNConv(heads * width, 3))
        gone = zero_columns(upscale_fx.mask(model, amount), "convs.1.lin")
        assert per_head(gone, heads, width) == [removed] * heads

    def test_through_batch_norm_and_residual(self, heads, width, amount, removed):
        class Normed(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.norm = GATConv(6, width, heads=heads), BatchNorm(heads * width)
                self.skip, self.head = nn.Linear(6, heads * width), nn.Linear(heads * width, 3)

            def forward(self, x, edge_index):
                return self.head((self.norm(self.conv(x, edge_index)) + self.skip(x)).relu())

        gone = zero_columns(upscale_fx.mask(Normed(), amount), "head")
        assert per_head(gone, heads, width) == [removed] * heads

    def test_the_vector_of_gatv2(self, heads, width, amount, removed):
        model = Stack(GATv2Conv(6, width, heads=heads), GCNConv(heads * width, 3))
        vector = upscale_fx.mask(model, amount).convs[0].att
        assert vector.shape == (1, heads, width)
        assert (vector == 0).sum(dim=-1).flatten().tolist() == [removed] * heads
        lowest = model.convs[0].att.abs().argsort(dim=-1)[..., :removed]
        assert not vector.gather(-1, lowest).any(), "by magnitude, the smallest entries go"

    @pytest.mark.parametrize("concat", [True, False])
    def test_the_product_of_query_and_key(self, heads, width, amount, removed, concat):
        model = Stack(TransformerConv(6, width, heads=heads, concat=concat), nn.Identity())
        model.convs[1] = SAGEConv(heads * width if concat else width, 3)
        layer = upscale_fx.mask(model, amount).convs[0]
        gone = zero_rows(layer.lin_query)
        assert zero_rows(layer.lin_key) == gone, "channels of a product go in pairs"
        assert per_head(gone, heads, width) == [removed] * heads
        assert layer.lin_value.weight.all(), "values are read by the next layer, on its own"


def test_a_product_with_edge_features_vanishes_at_its_queries():
    """Keys then hold a node's part and an edge's part; neither is read where the query is zero."""

    class WithEdges(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = TransformerConv(6, 4, heads=2, edge_dim=5), nn.Linear(8, 3)

        def forward(self, x, edge_index, edge_attr):
            return self.head(self.conv(x, edge_index, edge_attr).relu())

    model = WithEdges()
    masked = upscale_fx.mask(
        model, 0.5, example_inputs=(torch.randn(9, 6), torch.randint(9, (2, 20)), torch.randn(20, 5))
    )
    assert per_head(zero_rows(masked.conv.lin_query), 2, 4) == [2, 2]


def test_attention_vectors_that_fold_are_no_consumers():
    """GAT's logits are folded into its input, so its vectors need no mask."""
    model = Stack(GATConv(6, 4, heads=2), GATConv(8, 3))
    masked = upscale_fx.mask(model, 0.5)
    for before, after in zip(model.convs, masked.convs, strict=True):
        assert torch.equal(before.att_src, after.att_src)
        assert torch.equal(before.att_dst, after.att_dst)


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
    model = Residual()
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


# Criteria ------------------------------------------------------------------------------------------------------------


def columns_l1(weight):
    return [sum(abs(v) for v in column) for column in weight.T.tolist()]


def columns_l2(weight):
    return [math.sqrt(sum(v * v for v in column)) for column in weight.T.tolist()]


def columns_lamp(weight):
    energy = [sum(v * v for v in column) for column in weight.T.tolist()]
    return [own / sum(other for other in energy if other >= own) for own in energy]


def columns_fpgm(weight):
    columns = weight.T.tolist()
    return [sum(math.dist(own, other) for other in columns) for own in columns]


REFERENCES = {"l1": columns_l1, "l2": columns_l2, "lamp": columns_lamp, "fpgm": columns_fpgm}


def test_every_criterion_is_specified_here():
    assert {*REFERENCES, "random"} == set(criteria.CRITERIA)


@pytest.mark.parametrize("criterion", REFERENCES)
def test_scores_equal_their_definition(criterion):
    weight = torch.randn(9, 13, dtype=torch.float64)
    scores = criteria.CRITERIA[criterion](weight, "layer")
    np.testing.assert_allclose(scores, REFERENCES[criterion](weight), rtol=1e-12)


@pytest.mark.parametrize("criterion", REFERENCES)
def test_the_lowest_scores_go(criterion):
    model = sage().double()
    masked = upscale_fx.mask(model, 0.5, criterion=criterion)
    for name in HIDDEN_READERS:
        scores = REFERENCES[criterion](model.get_submodule(name).weight.detach())
        assert zero_columns(masked, name) == set(np.argsort(scores)[:8].tolist())


def test_l2_is_the_default():
    model = sage()
    default, named = upscale_fx.mask(model, 0.5), upscale_fx.mask(model, 0.5, criterion="l2")
    assert [zero_columns(default, n) for n in HIDDEN_READERS] == [zero_columns(named, n) for n in HIDDEN_READERS]


def test_lamp_compares_layers_whatever_their_scale():
    model = sage()
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled.convs[1].lin_l.weight *= 1024
    for criterion, same in (("lamp", True), ("l2", False)):
        counts = [
            zero_counts(upscale_fx.mask(m, 0.5, criterion=criterion, scope="global"), HIDDEN_READERS)
            for m in (model, scaled)
        ]
        assert (counts[0] == counts[1]) == same


def test_lamp_of_a_layer_that_is_zero_is_no_nan():
    assert criteria.lamp(torch.zeros(3, 4), "layer").tolist() == [0, 0, 0, 0]


def test_fpgm_removes_a_duplicated_column_first():
    """All columns have the same norm and stand at right angles, but for two that are the same."""
    model = SimpleGCN(6, 8, 8, num_layers=2)
    weight = torch.eye(8)
    weight[:, 6] = weight[:, 3]
    with torch.no_grad():
        model.convs[1].lin.weight.copy_(weight)
    assert zero_columns(upscale_fx.mask(model, 0.125, criterion="fpgm"), "convs.1.lin") == {3}
    assert zero_columns(upscale_fx.mask(model, 0.125, criterion="l2"), "convs.1.lin") == {0}


def test_random_differs_between_consumers_and_leaves_the_global_seed_alone():
    model = sage(32)
    before = torch.get_rng_state()
    masked = upscale_fx.mask(model, 0.5, criterion="random")
    assert torch.equal(torch.get_rng_state(), before)
    assert zero_counts(masked, HIDDEN_READERS) == [16] * 4
    assert len({frozenset(zero_columns(masked, name)) for name in HIDDEN_READERS}) == 4


def test_a_callable_sees_every_weight_as_outputs_by_inputs_with_its_name():
    seen = {}

    def last_first(weight, name):
        seen[name] = tuple(weight.shape)
        return -torch.arange(weight.shape[1])

    masked = upscale_fx.mask(sage(), 0.25, criterion=last_first)
    assert seen == {
        "convs.0.lin_l": (16, 6), "convs.0.lin_r": (16, 6), "convs.1.lin_l": (16, 16), "convs.1.lin_r": (16, 16),
        "convs.2.lin_l": (3, 16), "convs.2.lin_r": (3, 16),
    }  # fmt: skip
    assert zero_columns(masked, "convs.1.lin_l") == {12, 13, 14, 15}


@pytest.mark.parametrize(
    "convert", [torch.Tensor.numpy, torch.Tensor.tolist, lambda scores: scores.half()], ids=["numpy", "list", "half"]
)
def test_a_callable_returns_scores_of_any_kind(convert):
    masked = upscale_fx.mask(sage(), 0.25, criterion=lambda weight, name: convert(torch.arange(weight.shape[1])))
    assert zero_columns(masked, "convs.2.lin_r") == {0, 1, 2, 3}


def test_a_callable_that_writes_into_its_weight_changes_no_model():
    model = sage()
    before = copy.deepcopy(model.state_dict())

    def careless(weight, name):
        return weight.zero_().sum(dim=0)

    masked = upscale_fx.mask(model, 0.25, criterion=careless)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert zero_counts(masked, HIDDEN_READERS) == [4] * 4


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (lambda weight, name: weight.sum(dim=1), r"shape \[16\] for convs.0.lin_l .*expected \[6\]"),
        (lambda weight, name: weight, r"shape \[16, 6\] for convs.0.lin_l .*expected \[6\]"),
        (lambda weight, name: 1.0, r"shape \[\] for convs.0.lin_l"),
        (lambda weight, name: weight.sum(dim=0) * math.nan, r"NaN for convs.0.lin_l"),
    ],
)
def test_a_callable_with_impossible_scores_is_refused(criterion, message):
    with pytest.raises(upscale_fx.CriterionError, match=message):
        upscale_fx.mask(sage(), 0.5, criterion=criterion)


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
