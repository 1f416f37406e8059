"""Which columns the mask zeroes, in models of the zoo: the share asked, in every layer and head."""

import functools

import pytest
import torch
from torch import nn

import upscale_fx
from tests import zoo
from tests.comparison import parameters
from tests.selection import every
from tests.whole.zoo_runs import AMOUNTS, assert_same_on_all_sizes, own_keys

#: Model, weight, blocks of input columns: how many channels each has, negative for raw inputs, which all stay.
CONSUMERS = [
    ("gcn", "convs.0.lin", [-12]),
    ("gcn", "convs.1.lin", [16]),
    ("gcn", "convs.2.lin", [16]),
    ("gcn-odd-widths", "convs.1.lin", [7]),
    ("gcn-odd-widths", "convs.2.lin", [31]),
    ("sage-mean", "convs.0.lin_r", [-12]),
    ("sage-mean", "convs.1.lin_l", [16]),
    ("sage-mean", "convs.1.lin_r", [16]),
    ("sage-project", "convs.1.lin", [16]),
    ("sage-project", "convs.1.lin_l", [16]),
    ("gat-4", "convs.1.lin", [4] * 4),
    ("gat-mean", "convs.1.lin", [16]),
    ("gatv2-4", "convs.1.lin_l", [4] * 4),
    ("gatv2-4", "convs.2.lin_r", [4] * 4),
    ("transformer-4", "convs.1.lin_value", [4] * 4),
    ("transformer-edges", "convs.1.lin_edge", [-3]),
    ("gin", "convs.1.nn.0", [16]),
    ("gin", "convs.1.nn.2", [16]),
    ("jk-cat", "lin", [48]),
    ("jk-max", "lin", [16]),
    ("residual-batch-norm", "convs.2.lin", [16]),
    ("raw-and-hidden", "second.lin_l", [-12, 16]),
    ("raw-and-hidden", "leave", [32, -12]),
    ("dense-gcn", "convs.2.lin", [48]),
    ("edge-mlp", "convs.1.mlp.0", [32]),
    ("edge-mlp-features", "convs.1.mlp.0", [32, -3]),
    ("pool-all", "head.0", [48]),
    ("linear-twice", "shared", [16]),
    ("glu-chunk", "again.lin", [16]),
    ("family-jknet", "lin", [48]),
]


@functools.cache
def masked_model(name, amount):
    """The masked model, for all its rows of the table."""
    return upscale_fx.mask(zoo.make(name), amount, example_kwargs=zoo.ZOO[name].example())


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize(("name", "weight", "blocks"), every(2, CONSUMERS))
def test_the_mask_zeroes_the_share_asked(name, weight, blocks, amount):
    model, masked = zoo.make(name), masked_model(name, amount)
    columns = masked.get_parameter(f"{weight}.weight")
    zero = (columns == 0).all(dim=0)
    counts = [int(block.sum()) for block in zero.split([abs(width) for width in blocks])]
    assert counts == [round(amount * width) if width > 0 else 0 for width in blocks]
    assert not (model.get_parameter(f"{weight}.weight") == 0).all(dim=0).any()


@pytest.mark.parametrize("amount", AMOUNTS)
def test_the_mask_zeroes_attention_vectors_head_by_head(amount):
    masked = masked_model("gatv2-4", amount)
    for conv, width in zip(masked.convs, (4, 4, zoo.OUTPUT), strict=True):
        assert (conv.att == 0).sum(dim=-1).tolist() == [[round(amount * width)] * 4]


@pytest.mark.parametrize("amount", AMOUNTS)
def test_the_mask_zeroes_pairs_of_query_and_key(amount):
    masked = masked_model("transformer-4", amount)
    conv = masked.convs[1]
    query, key = ((lin.weight == 0).all(dim=1).view(4, 4) for lin in (conv.lin_query, conv.lin_key))
    assert torch.equal(query, key)
    assert query.sum(dim=1).tolist() == [round(amount * 4)] * 4
    assert not conv.lin_query.bias.view(4, 4)[query].any()


def test_amount_zero_changes_nothing():
    entry, model = zoo.ZOO["sage-mean"], zoo.make("sage-mean")
    pruned = upscale_fx.prune(model, 0)
    assert parameters(pruned) == parameters(model)
    assert_same_on_all_sizes(model, pruned, entry)


def test_compact_takes_zeros_that_others_made():
    """Weights pruned by torch.nn.utils.prune, whose re-parametrisation is still on."""
    entry, model = zoo.ZOO["sage-mean"], zoo.make("sage-mean")
    for conv in model.convs[1:]:
        for lin in (conv.lin_l, conv.lin_r):
            nn.utils.prune.ln_structured(lin, "weight", amount=0.5, n=2, dim=1)
    compacted = upscale_fx.compact(model)
    assert parameters(compacted) < sum(p.numel() for p in zoo.make("sage-mean").parameters())
    assert own_keys(compacted.state_dict()) <= set(zoo.make("sage-mean").state_dict())
    assert_same_on_all_sizes(model, compacted, entry)
