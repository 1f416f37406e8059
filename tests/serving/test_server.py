"""A server's calls: versions, transactions, removed nodes, what bad input gets, fan-outs, threads."""

import threading

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.nn.models import GCN

import upscale_fx
from tests.serving.small_server import NODES, WIDTH, compiled, graph, whole
from upscale_fx import InputError, Server, ServerError


@pytest.fixture(scope="module")
def model():
    return compiled()


@pytest.fixture
def server(model):
    return Server(model, *graph())


def everything(server):
    """All that a change could change."""
    return [*server.inputs(), server.version, {name: ids.tolist() for name, ids in server.stale().items()}]


def unchanged(server, before):
    now = everything(server)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(before, now, strict=True))


def test_answers_in_any_order_with_repeats(model, server):
    ids = [5, 3, 5, 80, 0]
    assert torch.equal(server(ids), whole(model, server)[ids])
    assert torch.equal(server(torch.tensor(ids)), server(ids))
    assert server([]).shape == (0, 4)


def test_takes_a_data_object_and_keywords(model):
    x, edge_index = graph()
    for other in (Server(model, Data(x=x, edge_index=edge_index)), Server(model, x=x, edge_index=edge_index)):
        assert torch.equal(other([1, 2]), Server(model, x, edge_index)([1, 2]))


def test_the_given_tensors_are_copied(model):
    x, edge_index = graph()
    server = Server(model, x, edge_index)
    expected = server([1, 2, 3])
    x.zero_()
    edge_index.zero_()
    assert torch.equal(server([1, 2, 3]), expected)


def test_every_change_is_a_version(server):
    server.add_edges(torch.tensor([[1, 2], [3, 4]]))
    server.update_features([3], torch.zeros(1, WIDTH))
    new = server.add_nodes(torch.zeros(2, WIDTH))
    server.remove_nodes(new[:1])
    assert (server.version, new.tolist(), server.stats.updates) == (4, [NODES, NODES + 1], 4)
    server.reset_stats()
    assert server.stats.updates == 0


def test_inputs_have_edges_in_order_of_insertion(server):
    _, given = graph()
    server.remove_edges(given[:, 7:8])
    server.add_edges(given[:, 7:8])
    gone = (given == given[:, 7:8]).all(0)
    assert torch.equal(server.inputs()[1], torch.cat([given[:, ~gone], given[:, 7:8]], 1))


def test_removed_nodes_lose_their_edges_and_their_number(model, server):
    server.remove_nodes([4])
    _, edges = server.inputs()[:2]
    assert not (edges == 4).any()
    assert server.add_nodes(torch.zeros(1, WIDTH)).tolist() == [NODES]
    for call in (
        lambda: server([4]),
        lambda: server.add_edges(torch.tensor([[4], [5]])),
        lambda: server.remove_nodes([4]),
    ):
        with pytest.raises(ServerError, match=r"node 4 .*was removed"):
            call()
    rest = [i for i in range(NODES) if i != 4]
    assert torch.equal(server(rest), whole(model, server)[rest])


def test_parallel_edges_go_together(server):
    server.add_edges(torch.tensor([[1, 1], [2, 2]]))
    server.remove_edges(torch.tensor([[1], [2]]))
    edges = server.inputs()[1]
    assert not ((edges[0] == 1) & (edges[1] == 2)).any()


BAD = {
    "unknown node": (lambda s: s([NODES]), ServerError, f"no node {NODES}"),
    "negative node": (lambda s: s([-1]), ServerError, "no node -1"),
    "floats as nodes": (lambda s: s([0.5]), InputError, "integers"),
    "two dimensions": (lambda s: s(torch.zeros(2, 2, dtype=torch.long)), InputError, "one dimension"),
    "unknown type": (lambda s: s([0], node_type="user"), InputError, "node_type"),
    "edge to nowhere": (lambda s: s.add_edges(torch.tensor([[0], [NODES]])), ServerError, f"no node {NODES}"),
    "edges of floats": (lambda s: s.add_edges(torch.tensor([[0.0], [1.0]])), InputError, "int64"),
    "edges of one row": (lambda s: s.add_edges(torch.tensor([0, 1])), InputError, r"\[2, E\]"),
    "values of edges without": (lambda s: s.add_edges(torch.tensor([[0], [1]]), w=torch.ones(1)), InputError, "'w'"),
    "an edge that is not there": (
        lambda s: s.remove_edges(torch.tensor([[0], [0]])), ServerError, "no edge from node 0 to node 0",
    ),
    "width": (lambda s: s.update_features([0], torch.zeros(1, WIDTH + 1)), InputError, r"\[any, 8\], got \[1, 9\]"),
    "dtype": (lambda s: s.add_nodes(torch.zeros(1, WIDTH).double()), InputError, "float32.*float64"),
    "NaN": (lambda s: s.add_nodes(torch.full((3, WIDTH), torch.nan)), InputError, "NaN in row 0"),
    "number of rows": (lambda s: s.update_features([0, 1], torch.zeros(1, WIDTH)), InputError, "1 rows for 2 nodes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_and_changes_nothing(server, name):
    call, error, message = BAD[name]
    server([1, 2, 3])
    before = everything(server)
    with pytest.raises(error, match=message):
        call(server)
    assert unchanged(server, before)


def test_what_cannot_be_served(model):
    x, edge_index = graph()
    with pytest.raises(InputError, match=r"compiled model, got GCN"):
        Server(GCN(WIDTH, 16, 2, 4), x, edge_index)
    with pytest.raises(InputError, match="'edge_index': a server takes the graph, as in Server"):
        Server(model, x)
    with pytest.raises(InputError, match="NaN in row 0"):
        Server(model, x * torch.nan, edge_index)
    with pytest.raises(ServerError, match=r"train\(\)"):
        Server(compiled(norm="batch_norm").train(), x, edge_index)


# Transactions --------------------------------------------------------------------------------------------------------


def test_a_transaction_is_one_version_and_answers_are_of_the_one_before(model, server):
    before = whole(model, server)
    with server.transaction():
        new = server.add_nodes(torch.ones(1, WIDTH))
        server.add_edges(torch.stack([new, torch.tensor([3])]))
        assert server.version == 0
        assert torch.equal(server([3]), before[[3]])
        with pytest.raises(ServerError, match=f"no node {NODES}"):
            server(new)
    assert server.version == 1
    assert torch.equal(server([3, NODES]), whole(model, server)[[3, NODES]])
    assert not torch.equal(server([3]), before[[3]])


def test_an_exception_rolls_back(server):
    before = everything(server)

    def fail():
        with server.transaction():
            server.add_nodes(torch.ones(1, WIDTH))
            server.remove_nodes([3])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert unchanged(server, before)
    assert server.add_nodes(torch.ones(1, WIDTH)).tolist() == [NODES]


def test_a_refused_step_leaves_the_rest_of_a_transaction(server):
    with server.transaction():
        server.add_edges(torch.tensor([[1], [2]]))
        with pytest.raises(ServerError):
            server.add_edges(torch.tensor([[1], [NODES]]))
    assert server.inputs()[1].shape == (2, 401)


def test_steps_of_a_transaction_see_those_before(server):
    with server.transaction():
        new = server.add_nodes(torch.ones(1, WIDTH))
        pair = torch.stack([new, new])
        server.add_edges(pair)
        server.remove_edges(pair)
        with pytest.raises(ServerError, match="removes it before"):
            server.remove_edges(pair)
        server.add_edges(pair)
        server.remove_nodes(new)
        with pytest.raises(ServerError, match="was removed"):
            server.add_edges(pair)
    assert server.inputs()[1].shape == (2, 400)


def test_transactions_are_not_nested(server):
    with server.transaction(), pytest.raises(ServerError, match="nested"), server.transaction():
        pass
    assert server.version == 0


# Work ----------------------------------------------------------------------------------------------------------------


def test_warm_answers_compute_the_outputs_alone(server):
    server.warm()
    assert all(not ids.numel() for ids in server.stale().values())
    server.reset_stats()
    server([1, 2, 3])
    assert (*server.stats.rows_computed, server.stats.hits, server.stats.answers) == (0, 0, 0, 3, 1, 1)
    assert server.stats.rows_computed["outputs"] == 3
    assert dict(server.stale().items()).keys() == {"0a", "0b", "1"}


@pytest.mark.parametrize("kind", ["gcn", "sage"])
def test_multiply_adds_are_those_of_the_cost_per_node(kind):
    degree = 5
    nodes = torch.arange(NODES)
    edges = torch.stack([torch.cat([(nodes + step + 1) % NODES for step in range(degree)]), nodes.repeat(degree)])
    model = upscale_fx.optimize(compiled(kind, layers=3), fuse=False) if kind == "gcn" else compiled(kind, layers=3)
    plain = upscale_fx.trace(model)  # costs are counted in the order from before fusing
    server = Server(plain, graph()[0], edges)
    server.warm()
    server(range(NODES))
    assert server.stats.macs / NODES == upscale_fx.cost_per_node(plain, degree=degree).full


def test_a_warm_eager_server_stops_where_rows_stay(model):
    x, edge_index = graph()
    server = Server(model, x, edge_index, eager=True)
    server.warm()
    server.reset_stats()
    server.update_features([5], x[[5]])  # the same
    server.update_features([5], x[[5]] + 1)
    assert all(not ids.numel() for ids in server.stale().values())
    assert server.stats.rows_computed["0b"] == 1
    assert torch.equal(server(range(NODES)), whole(model, server))


def test_verify_tells_rows_that_are_not_what_they_should_be(server):
    server.warm()
    assert server.verify() == 0
    store = server._computation.store
    name = server._computation.stored[0].values[0].name
    store._rows[name] += 0.25
    assert server.verify() >= 0.25


def test_fan_outs_store_exact_rows_only(model):
    x, edge_index = graph()
    exact, sampled = Server(model, x, edge_index), Server(model, x, edge_index, fanouts=[3, 2], seed=1)
    answers = sampled(range(NODES))
    assert not torch.equal(answers, exact(range(NODES)))
    assert torch.equal(answers, Server(model, x, edge_index, fanouts=[3, 2], seed=1)(range(NODES)))
    assert sampled.verify() == 0
    assert 0 < sampled.stale()["1"].numel() < NODES
    every = Server(model, x, edge_index, fanouts=[1000, 1000])
    assert torch.equal(every(range(NODES)), exact(range(NODES)))
    for wrong in ([3], [3, 0], [3, 2.5], [3, 2, 1]):
        with pytest.raises(InputError, match="one positive integer per hop"):
            Server(model, x, edge_index, fanouts=wrong)


def test_readers_get_whole_versions(model):
    x, edge_index = graph()
    server, ids = Server(model, x, edge_index), list(range(0, NODES, 9))
    rows = [x + number for number in range(12)]
    allowed = {0: whole(model, server)[ids]}
    for number, features in enumerate(rows, 1):
        with torch.no_grad():
            allowed[number] = model(features, edge_index)[ids]
    wrong, done = [], threading.Event()

    def ask():
        while not done.is_set():
            got = server(ids)
            if not any(torch.equal(got, rows) for rows in allowed.values()):
                wrong.append(got)

    readers = [threading.Thread(target=ask) for _ in range(3)]
    for reader in readers:
        reader.start()
    for features in rows:
        server.update_features(range(NODES), features)
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong


def test_a_closed_server(server):
    server.close()
    server.close()
    for call in (lambda: server([1]), server.warm, server.inputs, lambda: server.add_nodes(torch.zeros(1, WIDTH))):
        with pytest.raises(ServerError, match="closed"):
            call()


def test_the_table_of_stages(model):
    table = upscale_fx.stages(model)
    assert [row.name for row in table.rows] == ["0a", "0b", "1", "outputs"]
    assert table.rows[1].bytes_per_node == 4 * table.rows[1].width
    assert "reads per edge" in str(table)
    with pytest.raises(InputError, match="compiled model"):
        upscale_fx.stages(torch.nn.Linear(2, 2))
