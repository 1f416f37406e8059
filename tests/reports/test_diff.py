"""What people read of a change: golden prints, and diffs printed and as data."""

import copy
import html.parser
import re

import pytest
from expecttest import assert_expected_inline
from torch import nn

import upscale_fx
from tests.reports.read_models import FAMILIES, families, few_families, pruned, seeded, tiny
from tests.selection import only
from upscale_fx.models import SAGE

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
consumer         channels    to remove    kept  why not fewer
-------------  ----------  -----------  ------  ------------------------------------
convs.0.lin_l           4            0       4  reads raw inputs only (inputs=False)
convs.0.lin_r           4            0       4  reads raw inputs only (inputs=False)
convs.1.lin_l           8            4       4
convs.1.lin_r           8            4       4

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


@few_families
@pytest.mark.parametrize("amount", only([0.5], [0.5, 0.75]))
def test_prints_fit_the_screen(family, amount):
    model = seeded(FAMILIES[family], 100, 64, 40)
    compiled = upscale_fx.prune(model, amount)
    for text in (str(upscale_fx.diff(model, compiled)), upscale_fx.diff(model, compiled).table()):
        assert max(map(len, text.splitlines())) <= 120
    assert max(map(len, str(upscale_fx.report(compiled)).splitlines())) <= 120


@pytest.mark.slow
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
    model, compiled = pruned(family, 0.5)
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
