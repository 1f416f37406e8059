"""Sums over neighbours that take differences: near the whole graph, few edges read, anew after many."""

import pytest
import torch
from torch_geometric.nn.models import GAT, GIN, PNA

import upscale_fx
from tests.serving.small_server import NODES, WIDTH, compiled, graph, whole
from upscale_fx import Server
from upscale_fx.running.serving import differences

DENSE = graph(edges=1500)


def other(kind):
    """A pruned GIN or PNA."""
    torch.manual_seed(0)
    degrees = {"aggregators": ["mean", "max", "min", "sum"], "scalers": ["identity"], "deg": torch.tensor([1, 9, 30])}
    model = {"gin": lambda: GIN(WIDTH, 16, 3, 4), "pna": lambda: PNA(WIDTH, 16, 3, 4, **degrees)}[kind]().eval()
    return upscale_fx.prune(model, 0.5, example_inputs=DENSE)


MODELS = {
    "gcn": lambda: compiled("gcn", layers=3),
    "sage mean": lambda: compiled("sage", layers=3),
    "sage max": lambda: compiled("sage", layers=3, aggr="max"),
    "sage min": lambda: compiled("sage", layers=3, aggr="min"),
    "sage sum": lambda: compiled("sage", layers=3, aggr="sum"),
    "gin": lambda: other("gin"),
    "pna": lambda: other("pna"),
}


def changes(server, draw):
    """Change the graph in all ways, one after another."""
    for round_ in range(6):
        count = server.inputs()[0].size(0)
        yield server.add_edges(torch.randint(count, (2, 3), generator=draw))
        yield server.update_features([round_, round_ + 5], torch.randn(2, WIDTH, generator=draw))
        yield server.remove_edges(server.inputs()[1][:, 7 * round_ : 7 * round_ + 2])
        with server.transaction():
            new = server.add_nodes(torch.randn(1, WIDTH, generator=draw))
            server.add_edges(
                torch.stack([torch.cat([new, torch.tensor([3, 4])]), torch.cat([torch.tensor([5]), new, new])])
            )
            server.remove_nodes([60 + round_])
        yield None
        with server.transaction():  # edges that come and go in one change are not known before
            server.add_edges(torch.tensor([[1], [2]]))
            server.remove_edges(torch.tensor([[1], [2]]))
        yield None


@pytest.mark.parametrize("name", MODELS)
def test_answers_stay_near_those_of_the_whole_graph(name):
    model = MODELS[name]()
    server = Server(model, *DENSE, incremental=True)
    server.warm()
    for _ in changes(server, torch.Generator().manual_seed(0)):
        expected = whole(model, server)
        ids = [i for i in range(len(expected)) if i not in range(60, 66)]
        assert (server(ids) - expected[ids]).abs().max() < 1e-5 * max(1, expected.abs().max())
    assert all(not ids.numel() for ids in server.stale().values())
    taken = server._versions.differences.taken
    assert sum(taken.values()) > 20
    assert server.verify() < 1e-4


def test_a_node_with_many_neighbours_reads_those_that_changed():
    x, _ = graph(nodes=2000)
    edges = torch.stack([torch.arange(1, 2000), torch.zeros(1999, dtype=torch.long)])
    read = {}
    for incremental in (False, True):
        server = Server(compiled("sage", layers=3), x, edges, eager=True, incremental=incremental)
        server.warm()
        server.reset_stats()
        server.update_features([5], torch.ones(1, WIDTH))
        read[incremental] = server.stats.edges_read
    assert read[False] >= 2 * 1999
    assert read[True] <= 20


def test_a_row_is_computed_anew_after_many_differences(monkeypatch):
    monkeypatch.setattr(differences, "MOST", 3)
    server = Server(compiled("sage", layers=3), *DENSE, incremental=True)
    server.warm()
    store = server._computation.store
    stage = next(stage for stage in server._computation.stored if stage.reduces)
    store._rows[stage.values[0].name] += 0.5  # as if rows had drifted
    target = int(DENSE[1][1, 0])
    drifts = []
    for features in torch.randn(5, 1, WIDTH):
        server.update_features(DENSE[1][0, :1], features)
        fresh = Server(compiled("sage", layers=3), *[v for v in server.inputs() if v is not None], incremental=True)
        fresh.warm()
        name = stage.values[0].name
        difference = store._rows[name][target] - fresh._computation.store._rows[name][target]
        drifts.append(bool(difference.abs().max() > 0.1))
    assert drifts == [True, True, True, False, False]


def test_softmax_over_edges_takes_no_differences():
    torch.manual_seed(0)
    model = upscale_fx.compact(
        upscale_fx.mask(GAT(WIDTH, 16, 3, 4, heads=2).eval(), 0.5, example_inputs=DENSE), example_inputs=DENSE
    )
    server = Server(model, *DENSE, incremental=True)
    server.warm()
    server.update_features(range(0, NODES, 9), torch.ones(10, WIDTH))
    assert not server._versions.differences.taken
    torch.testing.assert_close(server(range(NODES)), whole(model, server))
