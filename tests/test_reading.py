"""What people read: diffs, reports, groups and verification, printed and as data; and the pipeline behind them."""

import copy
import dataclasses
import html.parser
import re
from itertools import pairwise

import networkx as nx
import pytest
import torch
from expecttest import assert_expected_inline
from torch import nn
from torch.fx.passes.infra.pass_base import PassResult
from torch.fx.passes.infra.pass_manager import PassManager
from torch_geometric.nn import GATv2Conv, GCNConv, LayerNorm

import upscale_fx
from upscale_fx import PassError, VerificationError, passes
from upscale_fx.models import SAGE, GATv2, GraphTransformer, JKNet, SimpleGCN
from upscale_fx.passes import (
    ApproximateNorms,
    CastPrecision,
    CompactChannels,
    FixStatistics,
    FoldAttention,
    FoldBatchNorm,
    FoldConstants,
    FuseAttention,
    FusePropagate,
    LiftToNodes,
    MergeSums,
    Pipeline,
    Reassociate,
    RemoveDeadNodes,
    RemoveDropout,
    RemoveZeroTerms,
    ShareStructure,
    SortEdges,
    SplitStructure,
    WriteInPlace,
)

FAMILIES = {
    "GCN": SimpleGCN,
    "SAGE": SAGE,
    "GATv2": GATv2,
    "GraphTransformer": GraphTransformer,
    "JKNet cat": JKNet,
    "JKNet max": lambda *widths: JKNet(*widths, mode="max"),
    "JKNet lstm": lambda *widths: JKNet(*widths, mode="lstm"),
}
families = pytest.mark.parametrize("family", FAMILIES)
INPUTS = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([[0, 1, 2, 3, 8], [1, 2, 3, 0, 4]])


def seeded(build, *widths):
    torch.manual_seed(0)
    return build(*widths).eval()


def tiny():
    """Two layers, whose first makes 8 channels that ``lin_l`` and ``lin_r`` of the second read."""
    return seeded(lambda: SAGE(4, 8, 2, num_layers=2))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
        self.convs = nn.ModuleList([GCNConv(8, 8), GCNConv(8, 8)])

    def forward(self, x, edge_index):
        h = self.stem(x)
        for conv in self.convs:
            h = h + conv(h, edge_index).relu()
        return self.head(h)


# Golden prints -------------------------------------------------------------------------------------------------------


def test_diff_of_a_small_network():
    model = tiny()
    assert_expected_inline(
        str(upscale_fx.diff(model, upscale_fx.prune(model, 0.5))),
        """\
    node            module               op            shape             parameters
--  --------------  -------------------  ------------  ----------------  ------------
~   linear          convs.0.lin_l        linear        [N, 8] -> [N, 5]  40 -> 25
~   linear_1        convs.0.lin_r        linear        [N, 8] -> [N, 5]  32 -> 20
~   add             convs.0              add           [N, 8] -> [N, 5]
~   relu                                 relu          [N, 8] -> [N, 5]
~   dropout                              dropout       [N, 8] -> [N, 5]
+   dropout_view                         view          [N, 5] -> [N, 4]
-   getitem_2       convs.1              getitem       [E]
-   getitem_3       convs.1              getitem       [E]
~   index_select_1  convs.1              index_select  [E, 8] -> [E, 4]
-   size_3          convs.1              size          int
~   scatter_1       convs.1.aggr_module  scatter       [N, 8] -> [N, 4]
~   linear_2        convs.1.lin_l        linear        [N, 2]            18 -> 10
+   dropout_view_1                       view          [N, 5] -> [N, 4]
~   linear_3        convs.1.lin_r        linear        [N, 2]            16 -> 8
parameters 106 -> 63 (59.4%)
MACs       96 per N -> 56 per N
reorders   2 views, 0 copies; 3 nodes removed, 0 other nodes added
runs on    2 spmm, 1 csr
(9 unchanged nodes not shown)""",
    )


def test_report_of_a_small_network():
    assert_expected_inline(
        str(upscale_fx.report(upscale_fx.prune(tiny(), 0.5))),
        """\
consumer         channels    asked to go    kept  why not fewer
-------------  ----------  -------------  ------  ------------------------------------
convs.0.lin_l           4              0       4  reads raw inputs only (inputs=False)
convs.0.lin_r           4              0       4  reads raw inputs only (inputs=False)
convs.1.lin_l           8              4       4
convs.1.lin_r           8              4       4

parameters  106 -> 63
bytes       424 -> 252
MACs        96 per N -> 56 per N
reorders    2 views, 0 copies
kernels     numba""",
    )


def test_groups_of_a_small_network():
    expected = """
┌─────────┬────────────┬───────────────┬───────────────┬────────────┬──────────┐
│   group │   channels │ producers     │ consumers     │ barriers   │   values │
├─────────┼────────────┼───────────────┼───────────────┼────────────┼──────────┤
│       0 │          4 │ x             │ convs.0.lin_l │            │        2 │
│         │            │               │ convs.0.lin_r │            │          │
├─────────┼────────────┼───────────────┼───────────────┼────────────┼──────────┤
│       1 │          8 │ convs.0.lin_l │ convs.1.lin_l │            │        5 │
│         │            │ convs.0.lin_r │ convs.1.lin_r │            │          │
├─────────┼────────────┼───────────────┼───────────────┼────────────┼──────────┤
│       2 │          2 │ convs.1.lin_l │               │            │        1 │
│         │            │ convs.1.lin_r │               │            │          │
└─────────┴────────────┴───────────────┴───────────────┴────────────┴──────────┘
"""
    assert str(upscale_fx.groups(tiny())) == expected.strip()


# Diff ----------------------------------------------------------------------------------------------------------------


@families
@pytest.mark.parametrize("amount", [0.5, 0.75])
def test_prints_fit_the_screen(family, amount):
    model = seeded(FAMILIES[family], 100, 64, 40)
    compiled = upscale_fx.prune(model, amount)
    for text in (str(upscale_fx.diff(model, compiled)), upscale_fx.diff(model, compiled).table()):
        assert max(map(len, text.splitlines())) <= 120
    assert max(map(len, str(upscale_fx.report(compiled)).splitlines())) <= 120


def test_diff_with_long_names_and_numbers_fits_the_screen():
    class Outer(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.the_model_of_somebody_who_likes_names = nn.ModuleDict({"and_a_rather_long_name_for_an_encoder": inner})

        def forward(self, x, edge_index):
            return self.the_model_of_somebody_who_likes_names["and_a_rather_long_name_for_an_encoder"](x, edge_index)

    outer = Outer(SAGE(1234, 1024, 128, num_layers=2))
    text = str(upscale_fx.diff(outer, upscale_fx.prune(outer, 0.5)))
    assert max(map(len, text.splitlines())) <= 120
    assert "convs.1.lin_l" in text
    assert "[N, 1024]" in text


@families
def test_diff_counts_what_the_graphs_hold(family):
    """Totals are those of the modules, rows add up to totals, and every reorder in the graph is in the diff."""
    model = seeded(FAMILIES[family], 6, 16, 3)
    compiled = upscale_fx.prune(model, 0.5)
    diff, report = upscale_fx.diff(model, compiled), upscale_fx.report(compiled)

    after = sum(p.numel() for p in compiled.parameters())
    assert (diff.after.parameters, report.after.parameters) == (after, after)
    assert diff.before == report.before
    numbers = [row.parameters.replace(",", "").split(" -> ") for row in diff.rows if row.parameters]
    kept = [
        cells for cells, row in zip(numbers, (r for r in diff.rows if r.parameters), strict=True) if row.change != "-"
    ]
    assert sum(int(cells[-1]) for cells in kept) == after
    shown = [row.op for row in diff.rows if row.change == "+"]
    assert (shown.count("view"), shown.count("copy")) == (report.views, report.copies)
    assert f"{report.views} views, {report.copies} copies" in str(diff)
    assert re.search(rf"parameters {diff.before.parameters:,} -> {after:,} \(\d+\.\d%\)", str(diff))


def test_diff_shows_shapes_before_and_after():
    model = tiny()
    diff = upscale_fx.diff(model, upscale_fx.prune(model, 0.5, constrained=True))
    (row,) = [row for row in diff.rows if row.module == "convs.0.lin_l"]
    assert (row.change, row.shape, row.parameters) == ("~", "[N, 8] -> [N, 4]", "40 -> 20")


def test_readers_of_different_channels_read_views():
    model = seeded(SAGE, 4, 8, 2)
    rows = [row for row in upscale_fx.diff(model, upscale_fx.prune(model, 0.5)).rows if row.change == "+"]
    assert [row.op for row in rows] == ["view"] * 4
    assert all(re.fullmatch(r"\[N, [5-8]\] -> \[N, 4\]", row.shape) for row in rows)


def test_diff_of_equal_graphs_says_so():
    compiled = upscale_fx.prune(tiny(), 0.5)
    for other in (compiled, copy.deepcopy(compiled)):
        diff = upscale_fx.diff(compiled, other)
        assert not diff.changed
        assert re.fullmatch(r"no change: \d+ nodes, 63 parameters", str(diff))


def test_diff_sees_a_model_and_its_trace_as_the_same():
    model = tiny()
    assert str(upscale_fx.diff(model, upscale_fx.trace(model))).startswith("no change")
    assert str(upscale_fx.diff(upscale_fx.trace(model), model)).startswith("no change")


def test_diff_leaves_unchanged_nodes_to_the_full_table():
    model = tiny()
    diff = upscale_fx.diff(model, upscale_fx.prune(model, 0.5))
    unchanged = [row.node for row in diff.rows if not row.change]
    assert unchanged
    assert f"({len(unchanged)} unchanged nodes not shown)" in str(diff)
    assert "edge_index" in diff.table()
    assert len(diff.table().splitlines()) == len(diff.rows) + 2


class _Cells(html.parser.HTMLParser):
    """The rows of a table, as lists of cell texts."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1] and self.get_starttag_text().startswith(("<td", "<th")):
            self.rows[-1][-1] += data.strip()


def test_diff_as_html_holds_every_row():
    model = tiny()
    diff = upscale_fx.diff(model, upscale_fx.prune(model, 0.5))
    cells = _Cells()
    cells.feed(diff.to_html())
    assert cells.rows[0] == ["", "node", "module", "op", "shape", "parameters"]
    assert cells.rows[1:] == [[r.change, r.node, r.module, r.op, r.shape, r.parameters] for r in diff.rows]
    assert "parameters 106 -&gt; 63" in diff.to_html()


# Report --------------------------------------------------------------------------------------------------------------


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
@pytest.mark.parametrize("amount", [0.25, 0.5, 0.75])
def test_report_counts_the_columns_that_are_left(family, amount):
    """And whoever keeps more than was asked says why."""
    compiled = upscale_fx.prune(seeded(FAMILIES[family], 6, 16, 3), amount)
    parameters = dict(compiled.named_parameters())
    for entry in upscale_fx.report(compiled).entries:
        assert entry.kept <= entry.before
        assert entry.reason or entry.kept == entry.before - entry.asked, entry
        if f"{entry.name}.weight" in parameters:
            assert entry.kept == parameters[f"{entry.name}.weight"].shape[1], entry
        elif entry.name in parameters:
            assert entry.kept == parameters[entry.name].numel(), entry
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


class Normalised(nn.Module):
    """A norm over channels reads all 8 that ``convs.0.lin`` makes."""

    def __init__(self, norm):
        super().__init__()
        self.convs = nn.ModuleList([GCNConv(4, 8), GCNConv(8, 8), GCNConv(8, 2)])
        self.norm = norm

    def forward(self, x, edge_index):
        h = self.norm(self.convs[0](x, edge_index))
        return self.convs[2](self.convs[1](h, edge_index).relu(), edge_index)


def test_report_names_barriers_with_their_place():
    (barrier,) = upscale_fx.report(upscale_fx.prune(Normalised(nn.LayerNorm(8)), 0.5)).barriers
    assert re.search(r"layer_norm.*\.py:\d+", barrier)


def test_report_is_of_the_last_pruning():
    again = upscale_fx.prune(upscale_fx.prune(tiny(), 0.5), 0.5)
    entries = upscale_fx.report(again).entries
    assert [(e.before, e.asked, e.kept) for e in entries if e.name.startswith("convs.1")] == [(4, 2, 2)] * 2


# Groups --------------------------------------------------------------------------------------------------------------


def group_of(groups, producer):
    (found,) = [group for group in groups.tied if producer in group.producers]
    return found


def test_a_residual_network_is_one_group():
    groups = upscale_fx.groups(Residual())
    group = group_of(groups, "stem")
    assert group.channels == 8
    assert set(group.producers) == {"stem", "convs.0.lin", "convs.1.lin"}
    assert set(group.consumers) == {"convs.0.lin", "convs.1.lin", "head"}
    assert not group.barriers
    assert {groups.nodes[name]["group"] for name in group.values} == {group.number}


def test_layers_joined_by_concatenation_stay_groups_of_their_own():
    groups = upscale_fx.groups(JKNet(4, 8, 2))
    first, second, last = (group_of(groups, f"convs.{n}.lin") for n in range(3))
    assert len({first.number, second.number, last.number}) == 3
    assert (first.channels, second.channels, last.channels) == (8, 8, 8)
    assert first.consumers == ["convs.1.lin", "cat (concat)"]
    assert last.consumers == ["cat (concat)"]
    joined = group_of(groups, "cat")
    assert (joined.channels, joined.consumers) == (24, ["lin"])


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm(8), LayerNorm(8, mode="node"), LayerNorm(8, mode="graph")],
    ids=["torch", "node", "graph"],
)
def test_a_barrier_is_in_the_group_it_holds(norm):
    groups = upscale_fx.groups(Normalised(norm))
    assert group_of(groups, "convs.0.lin").barriers
    assert not group_of(groups, "convs.1.lin").barriers


def test_every_consumer_that_can_be_masked_is_in_a_group():
    for build in FAMILIES.values():
        model = build(4, 8, 2)
        found = {name for group in upscale_fx.groups(model).tied for name in group.consumers}
        names = [e.name for e in upscale_fx.report(upscale_fx.compact(model)).entries]
        assert set(names) <= found


@families
def test_groups_are_an_acyclic_digraph(family):
    groups = upscale_fx.groups(FAMILIES[family](4, 8, 2))
    assert isinstance(groups, nx.DiGraph)
    assert nx.is_directed_acyclic_graph(groups)
    assert "x" in groups
    assert {data["kind"] for _, data in groups.nodes(data=True)} <= {
        "layer",
        "concat",
        "barrier",
        "value",
        "input",
    }
    assert all(re.fullmatch(r"\[.*\]", data["shape"]) for _, data in groups.nodes(data=True))
    reached = nx.descendants(groups, "x")
    assert {name for name, data in groups.nodes(data=True) if data["kind"] == "producer"} <= reached


def test_groups_of_a_graph_are_those_of_its_model():
    model = Residual()
    assert str(upscale_fx.groups(model)) == str(upscale_fx.groups(upscale_fx.trace(model)))


def test_groups_copy_as_networkx_graphs_do():
    groups = upscale_fx.groups(tiny())
    assert nx.ancestors(groups, "linear_2") >= {"x", "relu"}
    assert groups.subgraph(["x", "linear"]).number_of_nodes() == 2
    assert groups.reverse().has_edge("linear", "scatter")


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_groups_draw_a_picture(tmp_path, suffix):
    path = upscale_fx.groups(Residual()).draw(tmp_path / f"groups{suffix}")
    assert path == tmp_path / f"groups{suffix}"
    start = path.read_bytes()[:200]
    assert start.startswith(b"\x89PNG") if suffix == ".png" else b"<svg" in path.read_bytes()


# Verify --------------------------------------------------------------------------------------------------------------


@families
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_verify_returns_the_difference_of_equal_models(family, dtype, most):
    model = seeded(FAMILIES[family], 4, 16, 3).to(dtype)
    inputs = INPUTS[0].to(dtype), INPUTS[1]
    difference = upscale_fx.verify(upscale_fx.mask(model, 0.5), upscale_fx.prune(model, 0.5), inputs)
    assert isinstance(difference, float)
    assert 0 <= difference < most


def test_verify_names_output_and_difference_of_a_perturbed_model():
    model = tiny().double()
    compiled = upscale_fx.prune(model, 0.5)
    with torch.no_grad():
        compiled.get_parameter("convs.1.lin_r.weight")[0, 1] += 1e-3
    inputs = INPUTS[0].double(), INPUTS[1]
    with pytest.raises(VerificationError, match=r"output 0 .*by 0\.000\d+ .*allowed 1e-10") as caught:
        upscale_fx.verify(upscale_fx.mask(model, 0.5), compiled, inputs)
    assert isinstance(caught.value, AssertionError)
    assert upscale_fx.verify(upscale_fx.mask(model, 0.5), compiled, inputs, tolerance=0.1) < 0.1


class Two(nn.Module):
    """Two outputs, the second one spoilt by ``spoil``."""

    def __init__(self, spoil=lambda y, x: y):
        super().__init__()
        torch.manual_seed(0)
        self.lin, self.spoil = nn.Linear(4, 3), spoil

    def forward(self, x, edge_index):
        y = self.lin(x)
        return y, self.spoil(y * 2, x)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda y, x: y + 1, "output 1 .*on the example inputs: by "),
        (lambda y, x: y + float(x.size(0) != 9), r"output 1 .*graph of \d+ nodes"),
        (lambda y, x: y[:, :2], r"output 1 .*shape \[9, 3\] against \[9, 2\]"),
        (lambda y, x: y * torch.nan, "output 1"),
        (lambda y, x: torch.where(y > y.max() - 1e-6, torch.inf, y), "output 1"),
        (lambda y, x: None, "output"),
    ],
    ids=["values", "other sizes", "shape", "NaN", "infinite", "missing"],
)
def test_verify_finds_what_is_wrong(spoil, message):
    with pytest.raises(VerificationError, match=message):
        upscale_fx.verify(Two(), Two(spoil), INPUTS)


def test_verify_accepts_infinities_and_nans_that_both_models_give():
    def strange(y, x):
        return torch.stack([y / 0, y * torch.nan])

    assert upscale_fx.verify(Two(strange), Two(strange), INPUTS) == 0


def test_verify_leaves_everything_as_it_was():
    model, compiled = tiny(), upscale_fx.prune(tiny(), 0.5).train()
    model.convs[1].train()
    before, modes = torch.get_rng_state(), [m.training for m in (*model.modules(), *compiled.modules())]
    upscale_fx.verify(upscale_fx.mask(model, 0.5), compiled, INPUTS)
    assert torch.equal(torch.get_rng_state(), before)
    assert [m.training for m in (*model.modules(), *compiled.modules())] == modes


# Passes and pipelines ------------------------------------------------------------------------------------------------

EVERY_PASS = {getattr(passes, name) for name in passes.__all__ if name not in ("Pass", "Pipeline", "check_invariants")}
#: Run only where they are asked for: eval() alone, and another precision, which is not exact.
ON_REQUEST = {FoldBatchNorm, RemoveDropout, CastPrecision}


def test_every_pass_is_listed_here():
    assert {
        RemoveDeadNodes,
        FoldAttention,
        FoldConstants,
        ApproximateNorms,
        FixStatistics,
        CompactChannels,
        RemoveZeroTerms,
        ShareStructure,
        SortEdges,
        LiftToNodes,
        FusePropagate,
        FuseAttention,
        Reassociate,
        MergeSums,
        WriteInPlace,
        SplitStructure,
        *ON_REQUEST,
    } == EVERY_PASS


@pytest.mark.parametrize("one", sorted(EVERY_PASS - {CastPrecision}, key=str))
class TestEveryPass:
    def test_is_a_frozen_dataclass(self, one):
        assert dataclasses.is_dataclass(one)
        assert one() == one()
        assert hash(one()) == hash(one())
        with pytest.raises(dataclasses.FrozenInstanceError):
            one().option = 1

    def test_changes_nothing_it_is_given(self, one):
        traced = upscale_fx.trace(upscale_fx.mask(seeded(GATv2, 4, 8, 2), 0.5))
        code, state = traced.code, copy.deepcopy(traced.state_dict())
        one()(traced)
        assert traced.code == code
        assert traced.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in traced.state_dict().items())

    @families
    def test_is_exact_and_honest_about_what_it_modified(self, one, family):
        masked = upscale_fx.mask(seeded(FAMILIES[family], 4, 8, 2).double(), 0.5)
        traced = upscale_fx.trace(masked)
        result = one()(traced)
        assert isinstance(result, PassResult)
        assert result.modified == upscale_fx.diff(traced, result.graph_module).changed
        upscale_fx.verify(masked, result.graph_module, (INPUTS[0].double(), INPUTS[1]))

    @families
    def test_finds_nothing_to_do_the_second_time(self, one, family):
        first = one()(upscale_fx.trace(upscale_fx.mask(seeded(FAMILIES[family], 4, 8, 2), 0.5))).graph_module
        again = one()(first)
        changed = [row for row in upscale_fx.diff(first, again.graph_module).rows if row.change]
        assert (again.modified, changed) == (False, [])

    def test_runs_in_the_pass_manager_of_torch(self, one):
        masked = upscale_fx.mask(tiny(), 0.5)
        result = PassManager(passes=[one()])(upscale_fx.trace(masked))
        assert upscale_fx.verify(masked, result.graph_module, INPUTS) < 1e-5


def test_all_passes_run_in_the_pass_manager_of_torch():
    masked = upscale_fx.mask(tiny(), 0.5)
    seen = []

    def keep(module):
        seen.append(module)

    manager = PassManager(
        passes=[RemoveDeadNodes(), FoldAttention(), CompactChannels(), ShareStructure()],
        run_checks_after_each_pass=True,
    )
    manager.add_checks(keep)
    result = manager(upscale_fx.trace(masked))
    assert result.modified
    assert len(seen) >= 4
    assert isinstance(result.graph_module, upscale_fx.CompiledGNN)
    assert upscale_fx.verify(masked, result.graph_module, INPUTS) < 1e-5
    assert upscale_fx.diff(result.graph_module, upscale_fx.compact(upscale_fx.mask(tiny(), 0.5))).changed is False


def test_a_callback_sees_every_pass_with_the_graph_before_and_after():
    seen = []
    compiled = upscale_fx.prune(tiny(), 0.5, approximate_norms=True, callback=lambda *event: seen.append(event))
    assert {type(one) for one, _, _ in seen} == EVERY_PASS - ON_REQUEST
    assert all(isinstance(gm, upscale_fx.CompiledGNN) for _, before, after in seen for gm in (before, after))
    assert all(after is before for (_, _, after), (_, before, _) in pairwise(seen))
    assert seen[-1][2] is compiled
    compaction, *_ = [upscale_fx.diff(before, after) for one, before, after in seen if type(one) is CompactChannels]
    assert (compaction.before.parameters, compaction.after.parameters) == (106, 63)


def test_a_callback_that_raises_stops_the_run():
    def stop(one, before, after):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale_fx.compact(tiny(), callback=stop)


def test_a_pipeline_tells_whether_anything_changed():
    traced = upscale_fx.trace(upscale_fx.mask(tiny(), 0.5))
    pipeline = Pipeline([RemoveDeadNodes(), CompactChannels()])
    result = pipeline(traced)
    assert result.modified
    assert not pipeline(result.graph_module).modified
    assert Pipeline([])(traced).graph_module is traced


class _Breaks:
    """A pass that does one thing to a copy of the graph."""

    def __init__(self, damage):
        self.damage = damage

    def __call__(self, gm):
        new = copy.deepcopy(gm)
        self.damage(new)
        return PassResult(new, True)


def drop_argument(gm):
    (node,) = [node for node in gm.graph.nodes if node.target == "edge_index"]
    for user in list(node.users):
        user.replace_input_with(node, next(iter(gm.graph.nodes)))
    gm.graph.erase_node(node)


def rename_argument(gm):
    next(iter(gm.graph.nodes)).target = "features"


def add_parameter(gm):
    gm.register_parameter("extra", nn.Parameter(torch.zeros(3)))


def call_nobody(gm):
    (node,) = [node for node in gm.graph.nodes if node.op == "output"]
    with gm.graph.inserting_before(node):
        node.args = (gm.graph.create_node("call_module", "nobody", (node.args[0],)),)


def use_before_made(gm):
    *_, last, _ = gm.graph.nodes
    last.append(next(iter(last.all_input_nodes)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_argument, "arguments.*edge_index"),
        (rename_argument, "arguments.*features"),
        (add_parameter, "added parameters.*extra"),
        (call_nobody, "malformed graph.*nobody"),
        (use_before_made, "malformed graph"),
    ],
)
def test_a_pass_that_breaks_an_invariant_is_named(damage, message):
    traced = upscale_fx.trace(tiny())
    with pytest.raises(PassError, match=f"_Breaks .*{message}"):
        Pipeline([RemoveDeadNodes(), _Breaks(damage), CompactChannels()])(traced)
