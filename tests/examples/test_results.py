"""The accuracy tables: the command that makes them, what it keeps and repeats, and what the pages say."""

from dataclasses import replace

import pytest
import torch

import results
from accuracy import rivals
from accuracy.columns import COLUMNS, Column
from accuracy.data import load_data
from accuracy.fitting import Recipe
from accuracy.images import ImageWorkload
from accuracy.store import Cell, Key, Store
from accuracy.training import load_dense, train_dense
from accuracy.workloads import NodeWorkload

TINY = Recipe(epochs=2, hidden=8)


@pytest.fixture
def job(tmp_path):
    """Arguments of the command: a small job that is kept and written below tmp_path."""
    folders = ["--store", str(tmp_path / "store"), "--docs", str(tmp_path / "docs")]
    return ["--graphs", "generated", "--no-vig", "--seeds", "0", "--epochs", "2", "--hidden", "8", *folders]


@pytest.fixture
def pages(tmp_path):
    """Read the pages that the command wrote."""
    return lambda: {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "docs").iterdir()}


@pytest.fixture
def trained(monkeypatch):
    """The titles of everything that is trained."""
    titles = []
    for kind in (NodeWorkload, ImageWorkload):
        train = kind.train

        def count(self, model, train=train):
            titles.append(self.title)
            return train(self, model)

        monkeypatch.setattr(kind, "train", count)
    return titles


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_command_fills_all_cells_and_writes_pages_and_a_second_one_trains_nothing(job, pages, trained, tmp_path):
    names = ["random", "l2", "l2-constrained", "lasso", "obs", "obs-finetuned", "obs-shared", "budget", "narrow"]
    arguments = [*job, "--models", "sage", "--amounts", "0.5", "--columns", *names]
    assert results.main(arguments) == 1 + len(names)
    assert len(trained) == 2, "a dense and a narrow one"
    store = Store(tmp_path / "store")
    assert [cell.error for cell in store.cells.values() if cell.error] == []
    for key, cell in store.cells.items():
        dense = store.cells[replace(key, amount=0.0, column="dense")]
        assert 0 <= cell.accuracy <= 1
        assert cell.parameters == dense.parameters if key.column == "dense" else cell.parameters < dense.parameters
        assert cell.macs == dense.macs if key.column == "dense" else cell.macs < dense.macs
    first = pages()
    assert sorted(first) == ["baseline.md", "results.md"]
    assert "SAGE" in first["baseline.md"]
    assert f"torch {torch.__version__}" in first["baseline.md"]
    text = first["results.md"]
    assert "--models sage --graphs generated --amounts 0.5 --seeds 0" in text, "the command that made it"
    assert "10 of 10 cells are filled. Seeds: 0 on a generated graph." in text
    assert all(f"| {COLUMNS[name].title} " in text for name in names)
    assert "not run" not in text
    assert str(tmp_path) not in text, "where things are kept is nobody's concern"

    trained.clear()
    assert results.main(arguments) == 0
    assert trained == []
    assert pages() == first


@pytest.mark.slow
def test_more_cells_are_added_to_what_is_there(job, trained):
    assert results.main([*job, "--models", "gcn", "--amounts", "0.5", "--columns", "l2"]) == 2
    assert results.main([*job, "--models", "gcn", "--amounts", "0.5", "0.75", "--columns", "l2", "random"]) == 3
    assert trained == ["SimpleGCN on a generated graph"], "the dense model once"


@pytest.mark.slow
def test_another_recipe_makes_other_cells(job, trained):
    assert results.main([*job, "--models", "gcn", "--amounts", "0.5", "--columns", "l2"]) == 2
    assert results.main([*job, "--epochs", "1", "--models", "gcn", "--amounts", "0.5", "--columns", "l2"]) == 2
    assert len(trained) == 2


def test_an_error_is_shown_and_repeated_on_request_only(job, pages, monkeypatch):
    arguments = [*job, "--models", "gcn", "--amounts", "0.5", "--columns", "l2", "random"]

    def fail(job):
        raise KeyError("no such channel")

    working = COLUMNS["l2"]
    monkeypatch.setitem(COLUMNS, "l2", Column("L2", fail, "fails"))
    assert results.main(arguments) == 3, "the others go on"
    text = pages()["results.md"]
    assert "error: KeyError" in text
    assert "L2, error in 1 cell: `KeyError: 'no such channel'`" in text
    monkeypatch.setitem(COLUMNS, "l2", working)
    assert results.main(arguments) == 0
    assert results.main([*arguments, "--retry-errors"]) == 1
    assert "error" not in pages()["results.md"]


def test_a_stated_reason_is_no_error(job, pages, monkeypatch):
    def refuse(job):
        raise rivals.NotApplicable("unchanged, no error")

    monkeypatch.setitem(COLUMNS, "torch-pruning", replace(COLUMNS["torch-pruning"], make=refuse))
    arguments = [*job, "--models", "gcn", "--amounts", "0.5", "0.75", "--columns", "torch-pruning"]
    assert results.main(arguments) == 3
    text = pages()["results.md"]
    assert "| unchanged, no error |" in text
    assert "Torch-Pruning, unchanged, no error: SimpleGCN on a generated graph (2 cells)." in text
    assert results.main([*arguments, "--retry-errors"]) == 0


def test_a_run_that_is_out_of_time_says_what_is_missing(job, pages):
    arguments = [*job, "--models", "gcn", "--amounts", "0.5", "--columns", "l2"]
    assert results.main([*arguments, "--time-limit", "0"]) == 0
    assert "0 of 2 cells are filled" in pages()["results.md"]
    assert "2 cells not run yet" in pages()["results.md"]
    assert results.main([*arguments, "--pages-only"]) == 0
    assert results.main(arguments) == 2


def test_small_data_come_before_large_and_all_of_it_before_another_seed(job, monkeypatch):
    asked = []
    monkeypatch.setattr(results, "fill", lambda asks, store, settings: asked.extend(asks) or 0)
    known = ["--graphs", "cora", "photo", "--vig", "--models", "gcn", "--seeds", "0", "1"]
    results.main([*job, *known])
    turns = [(ask.keys[0].data, ask.keys[0].seed) for ask in asked]
    names = "cora", "digits", "photo"
    assert turns == [(name, seed) for seed in (0, 1) for name in names]


@pytest.mark.slow
def test_latency_is_added_to_what_is_there_without_training(job, pages, trained, tmp_path):
    arguments = [*job, "--models", "gcn", "--amounts", "0.5", "--columns", "l2", "obs-finetuned"]
    results.main(arguments)
    assert "Latency" not in pages()["results.md"]
    before = Store(tmp_path / "store").cells
    trained.clear()
    assert results.main([*arguments, "--latency"]) == 3
    assert trained == []
    after = Store(tmp_path / "store").cells
    assert all(cell.latency > 0 for cell in after.values())
    assert {key: replace(cell, latency=None) for key, cell in after.items()} == before
    assert "Latency over that of the fused dense model" in pages()["results.md"]


def test_a_new_cell_is_timed_at_once(job, tmp_path):
    results.main([*job, "--models", "gcn", "--amounts", "0.5", "--columns", "l2", "--latency"])
    assert all(cell.accuracy and cell.latency for cell in Store(tmp_path / "store").cells.values())


@pytest.mark.slow
def test_vision_gnn_has_a_page_of_its_own(job, pages):
    arguments = [*job, "--epochs", "1", "--vig", "--models", "gcn", "--amounts", "0.5", "--columns", "l2", "random"]
    assert results.main(arguments) == 6
    written = pages()
    assert sorted(written) == ["baseline.md", "results.md", "vig_results.md"]
    assert "| ViG " in written["vig_results.md"]
    assert "| ViG " in written["baseline.md"]
    assert "ViG" not in written["results.md"]
    assert "error" not in written["vig_results.md"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "vgg"], "invalid choice: 'vgg' (choose from"),
        (["--graphs", "nowhere"], "invalid choice: 'nowhere'"),
        (["--columns", "dense"], "invalid choice: 'dense'"),
        (["--amounts", "1"], "'1' is not a number between 0 and 1"),
        (["--amounts", "nan"], "'nan' is not a number between 0 and 1"),
        (["--epochs", "0"], "'0' is not a whole number of at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        results.main(arguments)
    assert message in capsys.readouterr().err


def test_without_stored_graphs_it_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no load.py in .*--root"):
        load_data("cora", tmp_path)


# --- What is kept -----------------------------------------------------------------------------------------------------

KEY = Key("gcn", "cora", 0, 0.5, "l2", "a recipe")


def test_of_several_lines_for_a_cell_the_last_one_counts(tmp_path):
    store = Store(tmp_path)
    store.keep(KEY, Cell(error="first"))
    store.keep(replace(KEY, seed=1), Cell(accuracy=0.25))
    store.keep(KEY, Cell(accuracy=0.5))
    assert Store(tmp_path).cells == {KEY: Cell(accuracy=0.5), replace(KEY, seed=1): Cell(accuracy=0.25)}


def test_a_line_that_a_stopped_run_left_unfinished_is_dropped(tmp_path):
    store = Store(tmp_path)
    store.keep(KEY, Cell(accuracy=0.5))
    with store.path.open("a") as file:
        file.write('{"key": {"model"')
    again = Store(tmp_path)
    assert again.cells == store.cells
    again.keep(replace(KEY, seed=1), Cell(accuracy=0.25))
    assert len(Store(tmp_path).cells) == 2


def test_a_line_that_is_no_cell_is_named(tmp_path):
    Store(tmp_path).keep(KEY, Cell(accuracy=0.5))
    with (tmp_path / "cells.jsonl").open("a") as file:
        file.write('{"key": {}, "cell": {}}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*cells.jsonl is no cell"):
        Store(tmp_path)


def test_a_dense_model_is_trained_once_per_recipe(tmp_path, trained):
    workload = NodeWorkload("sage", load_data("generated"), TINY)
    model, first = train_dense(workload, 0, tmp_path)
    again, second = train_dense(workload, 0, tmp_path)
    assert (first["reused"], second["reused"]) == (False, True)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert not again.training
    other, _ = train_dense(workload, 1, tmp_path)
    assert not torch.equal(other.convs[0].lin_l.weight, model.convs[0].lin_l.weight)
    assert len(trained) == 2
    train_dense(NodeWorkload("sage", load_data("generated"), replace(TINY, epochs=1)), 0, tmp_path)
    assert len(trained) == 3


def test_load_dense_gives_a_model_and_its_graph(tmp_path, monkeypatch):
    monkeypatch.setitem(NodeWorkload.__init__.__globals__["RECIPES"], "generated", TINY)
    model, data = load_dense("resgcn", "generated", store=tmp_path)
    assert not model.training
    assert model(data.x, data.edge_index).shape == (data.num_nodes, 5)
