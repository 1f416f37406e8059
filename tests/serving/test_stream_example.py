"""The stream of users, on a small generated graph: what it counts and that it is right, never how long it takes."""

import pytest
import torch

import prune_gnn
import stream_nodes

SMALL = [
    "--data", "generated", "--hidden", "32", "--epochs", "8", "--arrivals", "20", "--bursts", "2", "--burst", "5",
]  # fmt: skip


@pytest.mark.parametrize(("model", "unstored"), [("gcn", 20), ("sage", 4)])
def test_every_user_is_classified_as_on_the_whole_graph(model, unstored, tmp_path, capsys):
    picture = tmp_path / "stream.png"
    rows = stream_nodes.main([*SMALL, "--model", model, "--unstored", str(unstored), "--picture", str(picture)])
    assert [row.name for row in rows] == [
        "dense, stored", "dense, no store", "75% pruned, stored", "75% pruned, no store", "budget 25%, stored",
        "budget 25%, no store",
    ]  # fmt: skip
    for row in rows:
        stored = row.name.endswith(", stored")
        assert len(row.answers) == len(row.updates) == (20 if stored else unstored)
        assert len(row.bursts) == 2
        assert row.users == len(row.answers) + 10
        assert row.difference < 1e-5
    for stored, bare in zip(rows[::2], rows[1::2], strict=True):
        if unstored == 20:
            assert stored.right == bare.right, "a store changes no answer"
        assert stored.computed < bare.computed
    printed = capsys.readouterr().out
    assert "970 users are known" in printed
    assert "updates: p50, p95, p99 ms" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_stream_ends_with_the_whole_graph():
    graph = prune_gnn.generated_graph()
    stream = stream_nodes.arriving(graph, 40, seed=1)
    known, edges = stream.known.num_nodes, list(stream.edges)
    assert known == graph.num_nodes - 40
    assert not torch.equal(stream.y[known:], graph.y[known:]), "they arrive in a random order"
    for number, some in enumerate(edges):
        assert (some.max(dim=0).values == known + number).all(), "an edge comes with the later of its ends"
    every = torch.cat([stream.known.edge_index, *edges], dim=1)
    assert every.size(1) == graph.num_edges
    degrees = torch.bincount(every[1], minlength=graph.num_nodes)
    assert torch.equal(degrees.sort().values, torch.bincount(graph.edge_index[1], minlength=1000).sort().values)
    sums = torch.zeros_like(stream.x).index_add_(0, every[1], stream.x[every[0]])
    before = torch.zeros_like(graph.x).index_add_(0, graph.edge_index[1], graph.x[graph.edge_index[0]])
    torch.testing.assert_close(sums.sum(0), before.sum(0), atol=1e-2, rtol=1e-4)
    assert stream.known.train_mask.sum() == graph.train_mask.sum(), "nobody who was trained on arrives"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--root", "/nowhere"], "there is no load.py in /nowhere, so github cannot be loaded: name a folder"),
        (["--data", "generated", "--arrivals", "600"], "of 1,000 in all"),
        (["--arrivals", "0"], "'0' is not a whole number of at least 1"),
        (["--model", "mlp"], "invalid choice"),
    ],
)
def test_nonsense_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        stream_nodes.main(arguments)
    assert message in capsys.readouterr().err
