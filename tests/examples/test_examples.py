"""The examples, run as users run them, on a small generated graph."""

import pytest
import torch

import compare
import prune_gnn
from tests.selection import only

pytestmark = pytest.mark.usefixtures("seeded")

SMALL_JOB = ["--data", "generated", "--hidden", "32", "--epochs", "8"]


@pytest.mark.parametrize("model", only(["sage"], prune_gnn.MODELS))
def test_main_job_prunes_every_model(model, capsys):
    rows = prune_gnn.main([*SMALL_JOB, "--model", model, "--amount", "0.5", "0.75"])

    assert [row.name for row in rows] == [
        "dense",
        "0.5, weights alone",
        "0.5, calibrated",
        "0.75, weights alone",
        "0.75, calibrated",
        "budget of 25%, calibrated",
        "0.75, calibrated, fine-tuned",
    ]
    dense, half, half_calibrated, quarter, calibrated, budget, tuned = rows
    for larger, smaller in ((half, quarter), (half_calibrated, calibrated), (dense, half), (dense, half_calibrated)):
        assert larger.parameters > smaller.parameters > 0
        assert larger.macs_per_node > smaller.macs_per_node > 0
        assert larger.file_size > smaller.file_size > 0
    assert budget.parameters < 0.27 * dense.parameters
    assert tuned.parameters == calibrated.parameters
    assert dense.difference is None is tuned.difference
    assert all(row.difference < 1e-4 for row in rows[1:-1])
    assert all(row.latency > 0 for row in rows)

    printed = capsys.readouterr().out
    assert "[N, 32] -> [N, " in printed, "the diff shows hidden widths shrink"
    assert all(f"{row.parameters:,}" in printed for row in rows)
    assert printed.count("difference to masked") == 1, "one table for all amounts"
    lost = [f"{100 * (dense.accuracy - row.accuracy):.1f}" for row in rows]
    assert f"lost at 0.5: {lost[2]} with the graph as calibration data, {lost[1]} from weights alone" in printed
    assert f"lost at 0.75: {lost[4]} with the graph as calibration data, {lost[3]} from weights alone" in printed


@pytest.mark.parametrize("model", only(["sage"], prune_gnn.MODELS))
def test_every_model_learns_the_generated_graph(model):
    """Accuracy in the table means something: far above the 20 % of guessing, for every model."""
    graph = prune_gnn.generated_graph()
    network = prune_gnn.MODELS[model](graph.num_features, 32, 5)
    prune_gnn.train(network, graph, epochs=30)
    assert prune_gnn.accuracy(network, graph, graph.test_mask) > 0.6
    assert not network.training


def test_training_keeps_the_weights_that_validated_best():
    graph = prune_gnn.generated_graph()
    network = prune_gnn.SAGE(graph.num_features, 32, 5)
    seen = []

    def remember(module, inputs, logits):
        if not module.training:
            seen.append(float((logits.argmax(-1) == graph.y)[graph.val_mask].float().mean()))

    network.register_forward_hook(remember)
    prune_gnn.train(network, graph, epochs=10)
    assert prune_gnn.accuracy(network, graph, graph.val_mask) == max(seen)


def test_amount_zero_leaves_the_table_unchanged():
    dense, *same = prune_gnn.main([*SMALL_JOB, "--amount", "0"])[:3]
    for row in same:
        assert (dense.parameters, dense.accuracy) == (row.parameters, row.accuracy)
        # The product of the last layer is made with 12 columns, for 5 classes, so that rows do not depend on others.
        assert dense.macs_per_node <= row.macs_per_node < 1.05 * dense.macs_per_node


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "mlp"], "invalid choice: 'mlp' (choose from"),
        (["--data", "nowhere"], "invalid choice: 'nowhere' (choose from cora, citeseer, pubmed"),
        (["--amount", "1"], "'1' is not a number in [0, 1)"),
        (["--amount", "nan"], "'nan' is not a number in [0, 1)"),
        (["--amount", "half"], "'half' is not a number in [0, 1)"),
        (["--epochs", "0"], "'0' is not a whole number of at least 1"),
        (["--data", "generated", "--model", "gatv2", "--hidden", "30"], "hidden_dim=30 does not divide into heads=4"),
        (["--root", "/nowhere"], "there is no load.py in /nowhere"),
    ],
)
def test_bad_arguments_are_refused_with_what_is_valid(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        prune_gnn.main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_names_ignore_case():
    assert prune_gnn.main([*SMALL_JOB[2:], "--data", "GENERATED", "--model", "SAGE", "--amount", "0.5"])


def test_generated_graph_is_always_the_same_and_leaves_the_seed_alone():
    before = torch.get_rng_state()
    first, second = prune_gnn.generated_graph(), prune_gnn.generated_graph()
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.edge_index, second.edge_index)
    assert torch.equal(torch.get_rng_state(), before)
    masks = torch.stack([first.train_mask, first.val_mask, first.test_mask])
    assert masks.sum(dim=0).eq(1).all(), "every node is in exactly one split"
    assert masks.sum(dim=1).tolist() == [100, 150, 750]


def test_without_stored_graphs_or_network_it_says_so_and_generates_one(monkeypatch, tmp_path, capsys):
    def fail(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(prune_gnn, "Planetoid", fail)
    graph = prune_gnn.load_graph("cora", root=None)
    assert torch.equal(graph.x, prune_gnn.generated_graph().x)
    assert "Cora cannot be downloaded (OSError: no network)" in capsys.readouterr().out


def test_stored_graphs_come_from_the_loader_of_the_folder(tmp_path):
    (tmp_path / "load.py").write_text(
        "import torch\n"
        "from torch_geometric.data import Data\n"
        "NODE_NAMES = ('triangle',)\n"
        "def load(name, root):\n"
        "    return Data(x=torch.tensor([[2.0, 2.0], [0.0, 4.0], [1.0, 0.0]]), name=name)\n"
    )
    assert prune_gnn.graph_names(tmp_path) == ("triangle", "generated")
    graph = prune_gnn.load_graph("triangle", tmp_path)
    assert graph.name == "triangle"
    assert graph.x.tolist() == [[0.5, 0.5], [0.0, 1.0], [1.0, 0.0]], "rows are normalised"
    assert [path.name for path in tmp_path.iterdir()] == ["load.py"], "nothing is written beside the graphs"


def test_macs_are_those_of_the_dense_products():
    class OnlyLinear(torch.nn.Linear):
        def forward(self, x, edge_index):
            return super().forward(x)

    inputs = (torch.randn(7, 10), torch.zeros(2, 0, dtype=torch.long))
    assert prune_gnn.multiply_accumulates(OnlyLinear(10, 4), inputs) == 7 * 10 * 4


def test_comparison_judges_by_what_comes_out():
    """The judge of the comparison table, shown models that are unchanged, smaller, wrong and of the wrong shape."""

    class Reads(torch.nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = torch.nn.Parameter(weight)

        def forward(self, x, edge_index):
            return x[:, : self.weight.shape[1]] @ self.weight.T

    weight = torch.randn(3, 4)
    masked = weight.clone()
    masked[:, 2:] = 0
    inputs = (torch.randn(5, 4), torch.zeros(2, 0, dtype=torch.long))
    case = compare.Case(Reads(weight), output_layer="", inputs=inputs)

    def outcome(pruned, reference=masked):
        tool = compare.Tool("upscale_fx", lambda case: (Reads(pruned), Reads(reference)))
        return compare.outcome(tool, case)

    assert outcome(weight) == "unchanged, no error"
    assert outcome(weight[:, :2]).startswith("50% left, off by ")
    assert outcome(2 * weight[:, :2]).startswith("wrong: 50% left, off by ")
    assert outcome(weight[:2]) == "wrong: output [5, 2]"
    assert outcome(torch.randn(1, 5)) == "error: RuntimeError", "breaks when it is run"


@pytest.mark.slow
def test_comparison_prunes_exactly_where_upscale_fx_is_asked(capsys):
    rows = compare.main(["--markdown", "--models", "GCN", "GIN", "Residual GCN"])
    assert [row["model"] for row in rows] == ["GCN", "GIN", "Residual GCN"]
    assert all("left, off by" in row["upscale_fx"] and "wrong" not in row["upscale_fx"] for row in rows)
    assert all(row[tool] for row in rows for tool in compare.TOOLS), "no cell is empty, whatever is installed"
    assert capsys.readouterr().out.startswith("| model ")


def test_comparison_names_errors_and_missing_tools():
    inputs = (torch.zeros(1, 1), torch.zeros(2, 0, dtype=torch.long))
    case = compare.Case(torch.nn.Identity(), "", inputs)

    def fail(case):
        raise KeyError("no such op")

    assert compare.outcome(compare.Tool("upscale_fx", fail), case) == "error: KeyError"
    assert compare.outcome(compare.Tool("a_module_that_nobody_has", fail), case) == "not installed"


def test_comparison_refuses_unknown_models(capsys):
    with pytest.raises(SystemExit):
        compare.main(["--models", "VGG"])
    assert "invalid choice: 'VGG' (choose from 'GCN'" in capsys.readouterr().err
