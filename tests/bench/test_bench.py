"""The benchmark on tiny graphs: that it measures, checks and reports; never how long anything takes."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import upscale_fx.__main__ as commands
from upscale_fx.bench import Spec, columns, make_graph, memory, run
from upscale_fx.bench.adjacency import sparse_matrix, with_adjacency
from upscale_fx.bench.columns import BASELINE, Built, Case
from upscale_fx.bench.networks import NETWORKS, make_network
from upscale_fx.bench.timing import difference, take_turns
from upscale_fx.bench.work import Dense, Sparse, macs_of, work_of

TINY = ["bench", "--synthetic", "60", "300", "--dims", "8", "16", "16", "3", "--repeats", "1"]
SPEC = Spec(models=("GCN",), nodes=60, edges=300, dims=(8, 16, 16, 3), repeats=2, memory=False)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="this system has no /proc/self/clear_refs"
)


@pytest.fixture
def graph():
    return make_graph(SPEC)


def case_of(name, graph):
    return Case(name, make_network(name, graph, 0), graph, dataclasses.replace(SPEC, models=(name,)))


# The command --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tables_json_and_chart(tmp_path, capsys):
    file, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    columns_wanted = ["--columns", "PyG*", "upscale*", "--amounts", "0", "0.75", "--no-memory", "--train"]
    commands.main([*TINY, "--models", "sage", "gin", *columns_wanted, "--json", str(file), "--chart", str(picture)])

    found = json.loads(file.read_text())
    assert found["graph"] == {"name": "synthetic", "nodes": 60, "edges": 300, "dims": [8, 16, 16, 3]}
    assert found["machine"]["gemm_gflops"] > 0 < found["machine"]["bandwidth_gb_per_s"]
    assert {"date", "processor", "packages", "kernels", "threads", "cpu_count"} <= set(found["machine"])
    assert found["options"]["repeats"] == 1
    assert list(found["models"]) == ["SAGE", "GIN"]
    for model in found["models"].values():
        assert list(model["inference"]) == [
            "PyG edge_index", "PyG adj_t", "upscale 0 %", "upscale 75 %", "upscale 75 %, new graph",
            "upscale 75 %, constrained",
        ]  # fmt: skip
        assert list(model["training"]) == [
            "PyG edge_index", "PyG adj_t", "upscale 0 %", "upscale 75 %", "upscale 75 %, new graph",
        ]  # fmt: skip
        for cell in [*model["inference"].values(), *model["training"].values()]:
            assert not cell["wrong"]
            assert (cell["reason"] is None) == (len(cell["seconds"]) == 1)
        dense, pruned = (model["inference"][name] for name in ("PyG edge_index", "upscale 75 %, new graph"))
        assert dense["vs_pyg"] == 1
        assert dense["parameters"] > pruned["parameters"] > 0
        assert dense["macs"] > pruned["macs"] > 0
        assert dense["limit_seconds"] > 0 < pruned["to_limit"]
        assert dense["difference"] == 0 <= pruned["difference"] < 1e-4

    printed = capsys.readouterr()
    assert "SAGE, epoch of training" in printed.out
    assert "60 nodes, 300 edges, widths 8-16-16-3, float32" in printed.out
    assert all(line in printed.out for line in found["legend"])
    assert "100%" in printed.err, "the progress bar ends where it should"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_stored_graph_brings_its_own_widths(tmp_path):
    (tmp_path / "load.py").write_text(
        "import torch\n"
        "from torch_geometric.data import Data\n"
        "NODE_NAMES = ('ring',)\n"
        "def load(name, root):\n"
        "    ends = torch.arange(30)\n"
        "    mask = torch.ones(30, dtype=torch.bool)\n"
        "    edges = torch.stack([ends, ends.roll(1)])\n"
        "    return Data(x=torch.rand(30, 5), y=ends % 4, edge_index=edges, train_mask=mask)\n"
    )
    arguments = ["--data", str(tmp_path), "--graph", "ring", "--models", "gcn", "--columns", "PyG*", "--no-memory"]
    found = commands.main(["bench", *arguments, "--dims", "8", "16", "16", "3", "--repeats", "1"])
    assert found["graph"] == {"name": "ring", "nodes": 30, "edges": 30, "dims": (5, 16, 16, 4)}
    assert found["models"]["GCN"]["inference"]["PyG adj_t"]["seconds"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "mlp"], "'mlp' is not one of GCN, SAGE, GAT"),
        (["--amounts", "1"], "'1' is not a number in [0, 1)"),
        (["--amounts", "nan"], "'nan' is not a number in [0, 1)"),
        (["--repeats", "0"], "'0' is not a whole number of at least 1"),
        (["--synthetic", "10", "many"], "'many' is not a whole number of at least 1"),
        (["--synthetic", "10", "20", "--graph", "cora"], "not allowed with argument"),
        (["--dims", "8", "3"], "at least three widths"),
        (["--dims", "8", "16", "32", "3"], "hidden widths must be equal, not 16 32"),
        (["--dims", "8", "18", "3"], "the hidden width 18 does not divide into 4 heads"),
        (["--columns", "PyTorch*"], "no column is called PyTorch* (PyG edge_index, PyG adj_t"),
        (["--graph", "cora", "--data", "/nowhere"], "there is none in /nowhere; name it: --data"),
        (["--json", "/nowhere/bench.json"], "there is no folder /nowhere"),
        (["--chart", "bench.chart"], "'bench.chart' does not end in one of"),
    ],
)
def test_nonsense_is_refused_with_what_is_valid(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        commands.main(["bench", *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_a_chart_without_matplotlib_is_refused(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit):
        commands.main([*TINY, "--chart", "bench.png"])
    assert "pip install upscale_fx[draw]" in capsys.readouterr().err


# What is measured ---------------------------------------------------------------------------------------------------


def test_what_is_wrong_or_broken_gets_no_time_and_the_rest_goes_on(graph):
    def wrong(case):
        built = usual[BASELINE](case)
        return dataclasses.replace(built, call=lambda: built.call() + 0.01)

    def broken(case):
        raise RuntimeError("no such kernel\nand a long story")

    def breaks_later(case):
        built = usual[BASELINE](case)
        calls = [built.call]

        def call():
            return calls.pop()()

        return dataclasses.replace(built, call=call)

    usual = columns.columns(SPEC.amounts)
    table = {"wrong": wrong, "broken": broken, "later": breaks_later, "refused": lambda _: "it cannot"}
    steps = []
    ((name, result),) = run(SPEC, graph, steps.append, {BASELINE: usual[BASELINE], **table})
    cells = result.inference
    assert name == "GCN"
    assert len(cells[BASELINE].seconds) == 2
    assert len(steps) == len(cells) + SPEC.repeats
    assert cells["wrong"].wrong
    assert cells["wrong"].reason.startswith("wrong output: off by ")
    assert cells["broken"].reason == "RuntimeError: no such kernel"
    assert cells["later"].reason.startswith("IndexError: pop from empty list")
    assert cells["refused"].reason == "it cannot"
    for column in table:
        assert cells[column].median is None
    text = commands.bench.report.table_of("GCN", cells)
    assert "WRONG" in text
    assert "  broken: RuntimeError: no such kernel\n" in text


@pytest.mark.parametrize("name", NETWORKS)
def test_pyg_computes_the_same_from_a_matrix(name, graph):
    """Parallel edges and self loops included, which the graph has."""
    assert (graph.edge_index[0] == graph.edge_index[1]).any()
    assert graph.edge_index.unique(dim=1).size(1) < graph.num_edges
    case = case_of(name, graph)
    model, matrix = with_adjacency(case.model, graph)
    with torch.no_grad():
        assert difference(model(graph.x, matrix), case.expected(graph.edge_index)) < 1e-4


def test_columns_take_turns():
    order = []
    timers = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    times, failures = take_turns(timers, 3)
    assert "".join(order) == "abcabcabc"
    assert times == {"a": [1.0] * 3, "b": [1.0] * 3, "c": [1.0] * 3}
    assert not failures


def test_differences_are_relative_to_the_row():
    expected = torch.tensor([[1.0, -2.0], [1000.0, 5.0], [3.0, 1.0]])
    assert difference(expected, expected) == 0
    assert difference(expected + torch.tensor([[0.0, 0.3], [0.0, 0.0], [0.0, 0.0]]), expected) == pytest.approx(0.1)
    assert difference(expected + torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), expected) == pytest.approx(0.001)
    assert difference(expected[:2], expected) == math.inf
    assert difference(expected.log(), expected) == math.inf


def test_work_counts_products_and_sums_over_neighbours(graph):
    linear = nn.Linear(8, 16)
    matrix = sparse_matrix(graph.edge_index, graph.num_nodes)
    with torch.no_grad():
        work = work_of(lambda: torch.sparse.mm(matrix, linear(graph.x).relu(), "mean"))
    assert work == {Dense(1, 60, 8, 16): 1, Sparse(300, 16, 1, True): 1}
    assert macs_of(work) == 60 * 8 * 16 + 300 * 16


def test_pruned_models_have_less_work(graph):
    case = case_of("SAGE", dataclasses.replace(graph, dims=(8, 16, 16, 12)))  # a product has 12 columns at least
    with torch.no_grad():
        built = columns.columns(SPEC.amounts)["upscale 75 %, new graph"](case)
        assert isinstance(built, Built)
        assert macs_of(built.least_work()) < macs_of(case.least_work) <= macs_of(case.work)


@needs_proc
def test_peak_memory_is_what_a_call_holds_at_most():
    size = 64 << 20
    held = torch.ones(size // 4)
    peak = memory.peak_of(lambda: (held + 1) + (held + 2), "cpu")
    assert 3 * size * 0.95 < peak < 3 * size * 1.2


@pytest.mark.slow
@needs_proc
def test_peak_memory_of_a_column_is_measured_in_its_own_process():
    spec = dataclasses.replace(SPEC, nodes=1000, edges=100_000)
    peak = memory.measure(spec, "GCN", BASELINE)
    assert isinstance(peak, int), peak
    assert peak > 100_000 * 16 * 4, "the messages of all edges"
