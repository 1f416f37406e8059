"""What people read of a pruning: why a consumer kept more than asked."""

import re

import pytest
from torch import nn
from torch_geometric.nn import GATv2Conv

import upscale_fx
from tests.reports.read_models import Normalised, families, pruned, seeded, tiny
from tests.selection import only
from upscale_fx.models import SAGE


def test_report_tells_why_a_consumer_kept_more_than_asked():
    amounts = {"*": 0.5, "convs.2.lin_l": 0.02, "convs.3.lin_l": 0}
    compiled = upscale_fx.prune(SAGE(4, 16, 2, num_layers=4), amounts, ignore="convs.1.lin_r")
    entries = {entry.name: entry for entry in upscale_fx.report(compiled).entries}
    table = {name: (e.before, e.asked, e.kept) for name, e in entries.items()}
    assert table == {
        "convs.0.lin_l": (4, 0, 4),
        "convs.0.lin_r": (4, 0, 4),
        "convs.1.lin_l": (16, 8, 8),
        "convs.1.lin_r": (16, 0, 16),
        "convs.2.lin_l": (16, 0, 16),
        "convs.2.lin_r": (16, 8, 8),
        "convs.3.lin_l": (16, 0, 16),
        "convs.3.lin_r": (16, 8, 8),
    }
    assert "raw" in entries["convs.0.lin_l"].reason
    assert "ignored" in entries["convs.1.lin_r"].reason
    assert "0.02 of 16 channels rounds to none" in entries["convs.2.lin_l"].reason
    assert "amount 0" in entries["convs.3.lin_l"].reason
    assert [entries[n].reason for n in ("convs.1.lin_l", "convs.2.lin_r", "convs.3.lin_r")] == ["", "", ""]
    printed = str(upscale_fx.report(compiled))
    assert all(name in printed for name in entries)
    assert "ignored" in printed


def test_report_tells_of_round_to():
    report = upscale_fx.report(upscale_fx.prune(tiny(), {"convs.1.lin_l": 0.4, "convs.1.lin_r": 0.5}, round_to=4))
    entries = {entry.name: entry for entry in report.entries}
    assert (entries["convs.1.lin_l"].asked, entries["convs.1.lin_l"].kept) == (3, 8)
    assert "round_to" in entries["convs.1.lin_l"].reason


@families
@pytest.mark.parametrize("amount", only([0.5], [0.25, 0.5, 0.75]))
def test_report_counts_the_columns_that_are_left(family, amount):
    """And whoever keeps more than was asked says why."""
    _, compiled = pruned(family, amount)
    parameters = dict(compiled.named_parameters())
    for entry in upscale_fx.report(compiled).entries:
        assert entry.kept <= entry.before
        assert entry.reason or entry.kept == entry.before - entry.asked, entry
        if f"{entry.name}.weight" in parameters:
            assert entry.kept == parameters[f"{entry.name}.weight"].shape[1], entry
        elif entry.name in parameters:
            own = parameters[entry.name]
            assert entry.kept == (own.shape[1] if "weight_hh" in entry.name else own.numel()), entry
        elif "@" in entry.name:
            rows = {parameters[f"{side}.weight"].shape[0] for side in entry.name.split("@")}
            assert rows == {entry.kept}, entry


def test_report_keeps_counting_attention_vectors_of_one_channel_per_head():
    model = seeded(lambda: GATv2Conv(4, 2, heads=3, concat=False))
    compiled = upscale_fx.prune(model, 0.5)
    assert compiled.att.numel() == 3
    (entry,) = [entry for entry in upscale_fx.report(compiled).entries if entry.name == "att"]
    assert (entry.before, entry.asked, entry.kept) == (6, 3, 3)


def test_report_of_zeros_that_somebody_else_made():
    model = tiny()
    nn.utils.prune.ln_structured(model.convs[1].lin_l, "weight", amount=0.25, n=2, dim=1)
    nn.utils.prune.ln_structured(model.convs[1].lin_r, "weight", amount=0.25, n=2, dim=1)
    entries = {entry.name: entry for entry in upscale_fx.report(upscale_fx.compact(model)).entries}
    assert [(e.before, e.asked, e.kept) for n, e in entries.items() if n.startswith("convs.1")] == [(8, 2, 6)] * 2


def test_report_names_barriers_with_their_place():
    (barrier,) = upscale_fx.report(upscale_fx.prune(Normalised(nn.LayerNorm(8)), 0.5)).barriers
    assert re.search(r"layer_norm.*\.py:\d+", barrier)


def test_report_is_of_the_last_pruning():
    again = upscale_fx.prune(upscale_fx.prune(tiny(), 0.5), 0.5)
    entries = upscale_fx.report(again).entries
    assert [(e.before, e.asked, e.kept) for e in entries if e.name.startswith("convs.1")] == [(4, 2, 2)] * 2
