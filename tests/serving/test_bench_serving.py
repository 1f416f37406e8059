"""The benchmark of servers on a tiny graph: that it measures, checks and reports; never how long anything takes."""

import json

import numpy as np
import pytest
import torch

import upscale_fx.__main__ as commands
from upscale_fx.bench.graphs import synthetic
from upscale_fx.bench.networks import make_network
from upscale_fx.bench.serving.fanouts import Blocks
from upscale_fx.bench.serving.pyg import OnSubgraph, run_blocks

SMALL = ["bench", "serving", "--small", "--synthetic", "80", "300", "--models", "sage", "--batches", "1", "8"]


@pytest.mark.parametrize("name", ["GCN", "SAGE", "GAT"])
def test_pyg_on_the_subgraph_answers_as_on_the_whole_graph(name):
    graph = synthetic(200, 500, (6, 8, 8, 3), 0)
    model = make_network(name, graph, 0)
    ids = np.array([7, 150, 3])
    part = OnSubgraph(model, graph, 3)
    with torch.no_grad():
        expected = model(graph.x, graph.edge_index)[torch.from_numpy(ids)]
    torch.testing.assert_close(part(ids), expected)
    assert part.subgraph(ids)[0].size < 200


def test_blocks_with_all_neighbours_give_what_the_whole_graph_gives():
    graph = synthetic(120, 400, (6, 8, 3), 0)
    model = make_network("SAGE", graph, 0)
    ids = np.array([5, 60, 2])
    with torch.no_grad():
        expected = model(graph.x, graph.edge_index)[torch.from_numpy(ids)]
        torch.testing.assert_close(run_blocks(model.convs, graph.x, Blocks(graph, (400, 400), 0)(ids)), expected)
    widest, last = Blocks(graph, (2, 1), 0)(ids)
    assert np.bincount(last.edge_index[1]).max() <= 2
    assert np.bincount(widest.edge_index[1]).max() <= 1


def test_tables_and_json(tmp_path, capsys):
    file = tmp_path / "serving.json"
    commands.main([*SMALL, "--data", str(_stored(tmp_path)), "--graphs", "ring", "--json", str(file)])
    found = json.loads(file.read_text())
    answers = found["models"]["SAGE"]["answers"]
    assert list(answers) == ["1", "8"]
    for cells in answers.values():
        assert len(cells) == 7
        assert all(cell["seconds"] and cell["difference"] < 1e-4 for cell in cells.values())
        assert cells["75 %, warm"]["effort"]["computed"] == 0 < cells["75 %, no store"]["effort"]["computed"]
        assert cells["PyG dense, k-hop"]["effort"]["macs"] > cells["75 %, warm"]["effort"]["macs"] > 0
    for way in found["models"]["SAGE"]["updates"].values():
        assert len(way["seconds"]) == found["options"]["transactions"]
        assert way["verified"] < 1e-4
    assert len(found["fanouts"]["ring"]) == 4
    printed = capsys.readouterr().out
    assert "SAGE, 8 nodes" in printed
    assert "transactions of 20 edges" in printed
    assert all(line in printed for line in found["legend"])


@pytest.mark.slow
def test_the_picture(tmp_path):
    picture = tmp_path / "serving.png"
    commands.main([*SMALL, "--parts", "answers", "--chart", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "mlp"], "'mlp' is not one of GCN"),
        (["--dims", "8", "3"], "at least three widths"),
        (["--data", "/nowhere"], "there is no load.py in /nowhere"),
        (["--folder", "/nowhere"], "there is no folder /nowhere"),
        (["--chart", "bench.chart"], "does not end in one of"),
    ],
)
def test_nonsense_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        commands.main(["bench", "serving", *arguments])
    assert message in capsys.readouterr().err


def _stored(folder):
    (folder / "load.py").write_text(
        "import torch\n"
        "from torch_geometric.data import Data\n"
        "NODE_NAMES = ('ring',)\n"
        "def load(name, root):\n"
        "    ends = torch.arange(90)\n"
        "    edges = torch.cat([torch.stack([ends, ends.roll(k)]) for k in range(1, 5)], 1)\n"
        "    return Data(x=torch.rand(90, 5), y=ends % 4, edge_index=edges, train_mask=ends < 30)\n"
    )
    return folder
