"""A sweep over amounts: what its rows say is what pruning and evaluating one by one says, and how it is shown."""

import copy
import csv
import importlib

import pytest
import torch
from torch import nn
from torch_geometric import seed_everything
from torch_geometric.datasets import FakeDataset
from torch_geometric.nn import EdgeConv, GCNConv

import upscale_fx
from upscale_fx.compiled.record.row_axes import rows_of_symbol
from upscale_fx.errors import EvaluationError
from upscale_fx.masking.allocation.budget import Budget
from upscale_fx.models import SAGE
from upscale_fx.pruning.sweep import sweep
from upscale_fx.reports.latency import Latency, latencies
from upscale_fx.reports.sweep_row import SweepRow
from upscale_fx.reports.sweep_table import Sweep

AMOUNTS = [0.25, 0.5, 0.75]


@pytest.fixture(scope="module")
def graph():
    """A generated graph: features, edges, classes."""
    seed_everything(0)
    data = FakeDataset(num_graphs=1, avg_num_nodes=80, num_channels=12, num_classes=4, task="node")[0]
    return data.x, data.edge_index, data.y


@pytest.fixture(scope="module")
def accuracy(graph):
    def evaluate(module):
        assert not module.training
        with torch.no_grad():
            return (module(*graph[:2]).argmax(dim=1) == graph[2]).float().mean()

    return evaluate


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SAGE(12, 16, 4)


@pytest.fixture(scope="module")
def timed(model, graph, accuracy):
    """A sweep with latencies, one amount of which rounds to nothing."""
    return sweep(model, [0.01, *AMOUNTS], accuracy, example_inputs=graph[:2], progress=False)


def test_rows_are_what_pruning_one_by_one_gives(model, accuracy):
    before = copy.deepcopy(model.state_dict())
    found = sweep(model, AMOUNTS, accuracy, progress=False)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    dense, *pruned = found.rows
    assert (dense.amount, dense.parameters) == ("dense", sum(p.numel() for p in model.parameters()))
    assert dense.score == float(accuracy(model.eval()))
    model.train()
    assert [row.amount for row in pruned] == ["0.25", "0.5", "0.75"]
    for amount, row in zip(AMOUNTS, pruned, strict=True):
        compiled = upscale_fx.prune(model, amount).eval()
        size = upscale_fx.report(compiled).after
        assert (row.parameters, row.macs, row.macs_per_node) == (size.parameters, size.macs, size.macs["N"])
        assert row.score == float(accuracy(compiled))
    assert found.eager is None
    assert all(row.latency is None for row in found.rows)


def test_an_amount_that_removes_nothing_has_a_row_that_says_so(timed):
    assert timed.rows[1] == SweepRow("0.01", note="nothing to prune")
    assert [row.amount for row in timed.rows] == ["dense", "0.01", "0.25", "0.5", "0.75"]


def test_latencies_are_of_all_models_in_the_same_rounds(timed):
    measured = [row.latency for row in timed.rows if row.latency] + [timed.eager]
    assert len(measured) == 5
    assert len({one.rounds for one in measured}) == 1
    assert (measured[0].ratio, measured[0].ratio_spread) == (1, (1, 1))
    for one in measured:
        assert one.rounds >= 7
        assert 0 < one.spread[0] <= one.median <= one.spread[1]
        assert 0 < one.ratio_spread[0] <= one.ratio <= one.ratio_spread[1]


def test_turns_start_with_another_model_in_each_round_and_compare_within_it(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def call(name, seconds):
        def run():
            assert torch.is_inference_mode_enabled()
            order.append(name)
            clock[0] += seconds * (1 + len(order) // 2)  # the machine gets slower and slower

        return run

    rounds = []
    first, second = latencies([call("a", 1.0), call("b", 3.0)], torch.device("cpu"), lambda: rounds.append(1))
    assert len(rounds) == first.rounds == second.rounds == 7
    assert order == ["a", "b"] * 2 + ["a", "b", "b", "a"] * 3 + ["a", "b"]
    assert first.ratio == 1
    assert 2.5 < second.ratio < 3.5
    assert second.median == pytest.approx(3 * first.median, rel=0.2)


@pytest.mark.parametrize("options", [{}, {"example": True, "timed": False}])
def test_without_an_example_or_when_told_nothing_is_timed(model, graph, accuracy, options, monkeypatch):
    module = importlib.import_module("upscale_fx.pruning.sweep")  # the package has the function under that name
    monkeypatch.setattr(module, "latencies", lambda *_: pytest.fail("timed"))
    example = graph[:2] if options.pop("example", False) else None
    found = sweep(model, [0.5], accuracy, example_inputs=example, progress=False, **options)
    assert "ms" not in str(found)


class EdgeModel(nn.Module):
    """A convolution over nodes, an EdgeConv whose layers run per edge, and a head."""

    def __init__(self):
        super().__init__()
        self.first = GCNConv(12, 16)
        self.edges = EdgeConv(nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 16)))
        self.head = nn.Linear(16, 4)

    def forward(self, x, edge_index):
        return self.head(self.edges(self.first(x, edge_index).relu(), edge_index).relu())


def test_multiply_adds_of_edges_are_weighted_by_how_many_there_are(graph, accuracy):
    x, edge_index, _ = graph
    torch.manual_seed(0)
    options = {"timed": False, "progress": False}
    told = sweep(EdgeModel(), [0.5], accuracy, example_inputs=(x, edge_index), **options).rows[0]
    per_node, per_edge = 12 * 16 + 16 * 4, 32 * 16 + 16 * 16
    assert told.macs == {"N": per_node, "E": per_edge}
    assert told.macs_per_node == pytest.approx(per_node + per_edge * edge_index.shape[1] / len(x))
    assert not told.note
    blind = sweep(EdgeModel(), [0.5], accuracy, **options).rows[0]
    assert (blind.macs_per_node, blind.note) == (per_node, "and 768 per E MACs")


@pytest.mark.parametrize(
    ("symbol", "rows"),
    [("N", 10), ("E", 30), ("E+N", 40), ("2N", 20), ("N+1", 11), ("N*N", 100), ("call", 1), ("B", None), ("*", None)],
)
def test_row_symbols_stand_for_rows(symbol, rows):
    assert rows_of_symbol(symbol, {"N": 10, "E": 30}) == rows


def test_options_go_to_prune(model, accuracy):
    found = sweep(model, [0.5], accuracy, progress=False, constrained=True, inputs=True, ignore="convs.1.*")
    compiled = upscale_fx.prune(model, 0.5, constrained=True, inputs=True, ignore="convs.1.*")
    assert found.rows[1].parameters == sum(p.numel() for p in compiled.parameters())


def test_an_amount_may_be_anything_that_prune_takes(model, accuracy):
    found = sweep(model, [{"convs.1.*": 0.5}, 0.5], accuracy, progress=False)
    assert found.rows[1].amount == "{'convs.1.*': 0.5}"
    assert found.rows[1].parameters > found.rows[2].parameters


def test_an_amount_may_be_a_budget(model, graph, accuracy):
    budget = Budget(params=0.5)
    found = sweep(model, [budget], accuracy, progress=False, calibration=[graph[:2]])
    assert found.rows[1].amount == str(budget)
    compiled = upscale_fx.prune(model, budget=budget, calibration=[graph[:2]], progress=False)
    assert found.rows[1].parameters == sum(p.numel() for p in compiled.parameters()) < found.rows[0].parameters


def test_one_amount_that_fails_does_not_lose_the_rest(model, accuracy):
    scores = iter([0.9, float("nan"), 0.5])
    found = sweep(model, [0.25, {"nowhere": 0.5}, 0.5], lambda _: next(scores), progress=False)
    assert [row.score for row in found.rows] == [0.9, None, None, 0.5]
    assert found.rows[1].note.startswith("EvaluationError: evaluate returned nan for the model pruned by 0.25")
    assert found.rows[2].note.startswith("PatternError: amount pattern 'nowhere' matches no consumer")


def test_where_every_amount_fails_the_first_error_is_raised(model, accuracy):
    with pytest.raises(upscale_fx.NothingToPruneError, match="rounds to none"):
        sweep(model, [0.01, 0.02], accuracy, progress=False)
    with pytest.raises(EvaluationError, match="the dense model"):
        sweep(model, [0.5], lambda _: None, progress=False)


@pytest.mark.parametrize("amounts", [[0.5, 1.0], [float("nan")], [-0.1]])
def test_amounts_out_of_range_are_refused_before_anything_runs(model, amounts):
    with pytest.raises(upscale_fx.AmountError, match="amounts"):
        sweep(model, amounts, lambda _: pytest.fail("evaluated"))


@pytest.mark.parametrize("amounts", [[], 0.5, "0.5", {"convs.1.*": 0.5}])
def test_what_is_no_list_of_amounts_is_refused(model, amounts):
    with pytest.raises(upscale_fx.InputError, match="amount"):
        sweep(model, amounts, lambda _: pytest.fail("evaluated"))


SHOWN = Sweep(
    (
        SweepRow("dense", 0.81, 1000, {"N": 900}, 900.0, Latency(4.0, (3.5, 4.5), 1.0, (1.0, 1.0), 9)),
        SweepRow("0.01", note="nothing to prune"),
        SweepRow("0.5", 0.8, 400, {"N": 350}, 350.0, Latency(2.0, (1.75, 2.5), 0.5, (0.45, 0.6), 9)),
    ),
    Latency(20.0, (19.0, 22.0), 5.0, (4.5, 5.5), 9),
)


def test_it_prints_as_a_table():
    assert str(SHOWN).splitlines() == [
        "  amount    score    parameters    MACs per node    ms [quartiles]    of dense [quartiles]  note",
        "--------  -------  ------------  ---------------  ----------------  ----------------------  ----------------",
        "   dense     0.81         1,000              900      4 [3.5, 4.5]    1.000 [1.000, 1.000]",
        "    0.01                                                                                    nothing to prune",
        "     0.5      0.8           400              350     2 [1.75, 2.5]    0.500 [0.450, 0.600]",
        "the model as it came: 20 [19, 22] ms, 5.000 [4.500, 5.500] of the dense model compiled, 9 rounds in turns",
    ]


def test_it_writes_markdown():
    lines = SHOWN.to_markdown().splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")][:3] == ["amount", "score", "parameters"]
    assert set(lines[1]) <= set("|-:")
    assert [cell.strip() for cell in lines[4].strip("|").split("|")][:4] == ["0.5", "0.8", "400", "350"]
    assert lines[-1].startswith("the model as it came: 20")


def test_it_writes_comma_separated_values(tmp_path):
    with SHOWN.to_csv(tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["amount"] for row in rows] == ["dense", "0.01", "0.5"]
    assert {key: float(rows[2][key]) for key in ("score", "macs_per_node", "ms", "ms_q3", "ratio", "ratio_q1")} == {
        "score": 0.8,
        "macs_per_node": 350,
        "ms": 2,
        "ms_q3": 2.5,
        "ratio": 0.5,
        "ratio_q1": 0.45,
    }
    assert (rows[1]["score"], rows[1]["note"], rows[2]["macs"]) == ("", "nothing to prune", "350 per N")


def test_it_draws_the_score_against_every_cost(tmp_path, timed):
    figure = timed.draw(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 10_000
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "multiply-adds per node",
        "parameters",
        "latency of one call in milliseconds",
    ]
    assert "score" in figure.axes[0].get_ylabel()
    assert "prun" in figure.get_suptitle()
    for axes in figure.axes:
        pruned, dense = axes.collections
        assert (len(pruned.get_offsets()), len(dense.get_offsets())) == (3, 1)
        assert float(dense.get_offsets()[0][1]) == timed.rows[0].score
    assert float(figure.axes[1].collections[1].get_offsets()[0][0]) == timed.rows[0].parameters


def test_without_latencies_it_draws_two_panels(model, accuracy):
    figure = sweep(model, [0.5], accuracy, progress=False).draw()
    assert [axes.get_xlabel() for axes in figure.axes] == ["multiply-adds per node", "parameters"]


def test_drawing_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install upscale_fx\[draw\]"):
        SHOWN.draw()
