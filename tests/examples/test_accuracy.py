"""The parts of the accuracy tables: training, columns, sizes, and what pages say of made-up numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import prune_gnn
import upscale_fx
from accuracy import columns, rivals
from accuracy.columns import Job, count_parameters
from accuracy.data import Graph, SparseFeatures, load_data
from accuracy.findings import findings, missing
from accuracy.fitting import Recipe
from accuracy.images import ImageWorkload
from accuracy.running import Bench, recipe_text, rows_of
from accuracy.store import Cell, Key, Store
from accuracy.tables import Case, Results, number, with_spread
from accuracy.workloads import MODELS, NodeWorkload
from tests.selection import only

TINY = Recipe(epochs=2, hidden=8)


# --- Models and data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", only(["sage"], MODELS))
def test_training_leaves_the_weights_that_validated_best_in_the_plain_model(name):
    graph = load_data("generated")
    workload = NodeWorkload(name, graph, Recipe(epochs=40, hidden=16))
    torch.manual_seed(0)
    model = workload.build()
    workload.train(model)
    assert type(model) is MODELS[name][0]
    with torch.no_grad():
        plain = graph.share_right(model(graph.data.x, graph.data.edge_index), graph.data.test_mask)
    assert plain == pytest.approx(workload.accuracy(workload.fuse(model), "test"), abs=2e-3)
    assert plain > 0.5, "far above the 20 % of guessing"


@pytest.mark.slow
def test_vision_gnn_learns_the_digits():
    workload = ImageWorkload(Recipe(epochs=4, patience=4, lr=2e-3, dropout=0.0, hidden=16))
    sizes = {name: len(labels) for name, (_, labels) in workload.parts.items()}
    assert sum(sizes.values()) == 1797
    torch.manual_seed(0)
    model = workload.build()
    workload.train(model)
    assert workload.accuracy(model, "test") > 0.3


@pytest.mark.parametrize("filled", [0.05, 0.5])
def test_products_without_zeros_are_the_same(filled):
    torch.manual_seed(0)
    x = torch.randn(40, 30).double() * (torch.rand(40, 30) < filled)
    mode, bias = SparseFeatures(x), torch.randn(7).double()
    assert (mode.sparse is not None) == (filled < 0.1)
    weight = torch.randn(7, 30).double().requires_grad_()
    target = torch.randn(40, 7).double()
    gradients = []
    for context in (mode, torch.enable_grad()):
        with context:
            loss = (F.linear(x, weight, bias) - target).square().sum()
        gradients.append(torch.autograd.grad(loss, weight)[0])
    torch.testing.assert_close(gradients[0], gradients[1])
    columns_ = weight.detach().t()
    with torch.no_grad(), mode:
        found = [
            F.linear(x, columns_.t()),
            torch.mm(x, columns_),
            torch.mm(x, columns_, out=torch.empty(40, 7).double()),
            torch.addmm(bias, x, columns_) - bias,
            torch.addmm(bias, x, columns_, out=torch.empty(40, 7).double()) - bias,
            target.clone().addmm_(x, columns_) - target,
        ]
    for product in found:
        torch.testing.assert_close(product, x @ columns_)


@pytest.mark.parametrize("name", ["sage", "transformer"])
def test_compiled_models_multiply_without_zeros(name):
    """Both with and without gradients, no product with the dense features is left."""
    data = prune_gnn.generated_graph()
    data.x = data.x * (torch.rand(data.x.shape, generator=torch.Generator().manual_seed(0)) < 0.05)
    graph = Graph("generated", data)
    workload = NodeWorkload(name, graph, TINY)
    compiled = workload.fuse(workload.build())
    logits = graph.prepare(compiled)
    with torch.no_grad():
        expected = compiled(data.x, data.edge_index)
        torch.testing.assert_close(logits(), expected, rtol=1e-4, atol=1e-5)
        graph.data.x.fill_(torch.nan)  # from here on, only the sparse copy has the numbers
        assert not logits().isnan().any()
    assert not logits().isnan().any()


# --- Columns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gcn", "gatv2", "resgcn"])
@pytest.mark.parametrize("target", [1, 900, 1500, 10**9])
def test_the_narrow_width_is_the_nearest_of_all(name, target):
    workload = NodeWorkload(name, load_data("generated"), Recipe(hidden=24))
    widths = range(workload.multiple, 25, workload.multiple)
    counts = {width: count_parameters(workload.build(width)) for width in widths}
    nearest = min(widths, key=lambda width: abs(counts[width] - target))
    assert rivals.narrow_width(workload, target) == nearest


def test_torch_pruning_is_asked_for_the_ratio_that_comes_nearest(monkeypatch):
    asked = []

    def narrower(dense, workload, ratio):
        asked.append(ratio)
        return nn.Linear(round(1000 * (1 - ratio)), 1, bias=False)

    monkeypatch.setattr(rivals, "torch_pruning_at", narrower)
    dense = nn.Linear(1000, 1, bias=False)
    model, ratio = rivals.prune_with_torch_pruning(dense, None, target=203)
    assert count_parameters(model) == pytest.approx(203, abs=1)
    assert ratio == pytest.approx(0.797, abs=0.002)
    assert len(asked) <= 10

    monkeypatch.setattr(rivals, "torch_pruning_at", lambda dense, workload, ratio: dense)
    with pytest.raises(rivals.NotApplicable, match="unchanged, no error"):
        rivals.prune_with_torch_pruning(dense, None, target=203)


@pytest.mark.slow
@pytest.mark.parametrize("name", only(["sage"], ["sage", "gatv2", "resgcn"]))
def test_shared_sets_are_as_large_as_free_ones(name):
    workload = NodeWorkload(name, load_data("generated"), Recipe(hidden=16))
    dense = workload.build().eval()
    free = Job(workload, dense, workload.fuse(dense), 0.75, 0)
    shared = columns.COLUMNS["obs-shared"].make(free)
    amounts = (0.5, 0.625, 0.6875, 0.75, 0.8125, 0.875)
    nearer = [count_parameters(free.prune(amount, criterion="l2", constrained=True)) for amount in amounts]
    assert abs(count_parameters(shared) - free.target) <= min(abs(count - free.target) for count in nearer)


def test_columns_at_equal_size_take_the_size_from_before(monkeypatch):
    workload = NodeWorkload("gcn", load_data("generated"), TINY)
    dense = workload.build().eval()
    asked = Job(workload, dense, workload.fuse(dense), 0.5, 0, obs_size=321)
    monkeypatch.setattr(columns.upscale_fx, "prune", None)  # nobody prunes to know it
    assert asked.target == 321


def test_a_cell_is_what_the_columns_model_does(tmp_path):
    workload = NodeWorkload("gcn", load_data("generated"), Recipe(epochs=5, hidden=8))
    bench = Bench(workload, 0, Store(tmp_path))
    cell = bench.cell(Key("gcn", "generated", 0, 0.5, "l2", ""), latency=False)
    compiled, data = upscale_fx.prune(bench.dense, 0.5), workload.graph.data
    assert cell.accuracy == pytest.approx(prune_gnn.accuracy(compiled, data, data.test_mask), abs=2e-3)
    assert cell.parameters == count_parameters(compiled)
    inputs = data.x, data.edge_index
    assert cell.macs == prune_gnn.multiply_accumulates(compiled, inputs) / data.num_nodes


def test_rows_are_counted_by_their_symbols():
    assert rows_of("N", {"N": 1.0, "E": 4.5}) == 1
    assert rows_of("E+N", {"N": 1.0, "E": 4.5}) == 5.5
    assert rows_of("16B", {"B": 1.0}) == 16
    with pytest.raises(ValueError, match=r"cannot count rows of '\*'"):
        rows_of("*", {"N": 1.0})
    assert recipe_text(Recipe()).startswith("epochs 200, patience 50, lr 0.01")


# --- What the pages say -----------------------------------------------------------------------------------------------


def made_up(accuracies, **more):
    """Results of one model and amount: column -> accuracy by seed."""
    cells = {
        Key("gcn", "cora", seed, 0.0 if column == "dense" else 0.5, column, ""): Cell(accuracy=accuracy, parameters=10)
        for column, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    }
    cells |= {Key("gcn", "cora", 0, 0.5, column, ""): cell for column, cell in more.items()}
    return Results(list(cells), cells)


def test_drops_and_spreads_are_over_seeds():
    found = made_up({"dense": [0.80, 0.90, 0.85], "obs": [0.78, 0.85, 0.85], "l2": [0.70, 0.80, 0.75]})
    case = Case("gcn", "cora", 0.5)
    assert found.text(case, "obs") == "2.3 ± 2.5"  # of 2, 5 and 0
    assert found.text(case, "l2") == "10.0 ± 0.0"
    assert found.average(0.5, "obs") == "2.3 ± 2.5"
    differences = [difference for _, difference in found.pairs("obs", "l2")]
    assert differences == pytest.approx([8, 5, 10])


def test_cells_without_numbers_say_why():
    found = made_up({"dense": [0.8]}, l2=Cell(error="ValueError: bad: worse"), obs=Cell(reason="unchanged, no error"))
    case = Case("gcn", "cora", 0.5)
    assert found.text(case, "l2") == "error: ValueError"
    assert found.text(case, "obs") == "unchanged, no error"
    assert found.text(case, "budget") == "not run"
    assert found.average(0.5, "l2") == "-"
    assert "L2, error in 1 cell: `ValueError: bad: worse`" in missing(found)


def test_averages_over_fewer_cells_say_so():
    cells = {
        Key("gcn", data, 0, amount, column, ""): Cell(accuracy=accuracy)
        for data in ("cora", "pubmed")
        for amount, column, accuracy in ((0.0, "dense", 0.8), (0.5, "l2", 0.7))
    }
    keys = list(cells)
    del cells[Key("gcn", "pubmed", 0, 0.5, "l2", "")]
    assert Results(keys, cells).average(0.5, "l2") == "10.0 (1 of 2)"


def test_findings_name_what_speaks_against_pruning():
    text = findings(made_up({"dense": [0.8, 0.8], "obs": [0.7, 0.6], "narrow": [0.75, 0.6], "l2": [0.5, 0.5]}))
    assert (
        "**narrow dense** is more accurate than OBS in 1 of 2 cells: SimpleGCN on Cora at 0.5, seed 0 (by 5.0)" in text
    )
    assert "**L2** is nowhere more accurate than OBS (2 cells)." in text
    assert "The most that OBS loses: 20.0 points, SimpleGCN on Cora at 0.5, seed 1." in text
    assert findings(made_up({"dense": [0.8]})) == "- Nothing to compare yet."


def test_numbers_are_never_minus_zero():
    assert number(-0.04) == "0.0"
    assert with_spread([1.0]) == "1.0"
    assert with_spread([1.0, 3.0]) == "2.0 ± 1.4"
