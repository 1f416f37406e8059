"""A server on a folder: what another process finds, graphs that moved, other models."""

import os

import pytest
import torch

from tests.serving.small_server import NODES, WIDTH, compiled, graph, whole
from upscale_fx import InputError, Server, ServerError

REST = [i for i in range(NODES) if i != 9]


@pytest.fixture(scope="module", params=["gcn", "sage"])
def model(request):
    return compiled(request.param, layers=3)


def change(server):
    """Some of each change."""
    server.add_edges(torch.tensor([[1, 2], [3, 4]]))
    with server.transaction():
        new = server.add_nodes(torch.ones(2, WIDTH))
        server.add_edges(torch.stack([new, torch.tensor([5, 6])]))
    server.update_features([7], torch.ones(1, WIDTH))
    server.remove_edges(graph()[1][:, :1])
    server.remove_nodes([9])


def stale(server):
    return {name: ids.tolist() for name, ids in server.stale().items()}


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "left open"])
@pytest.mark.parametrize("eager", [False, True])
def test_another_server_goes_on(model, tmp_path, closed, eager):
    server = Server(model, *graph(), store=tmp_path / "store", eager=eager)
    server.warm()
    change(server)
    before = server.version, stale(server), [value for value in server.inputs() if value is not None]
    assert any(before[1].values()) or eager
    if closed:
        server.close()
    else:
        server._computation.store._let_go()  # as a process does that ends without a word
    with Server(model, *graph(), store=tmp_path / "store") as again:
        assert (again.version, stale(again)) == before[:2]
        assert all(map(torch.equal, (value for value in again.inputs() if value is not None), before[2]))
        assert torch.equal(again(REST), whole(model, again)[REST])
    with Server(model, store=tmp_path / "store") as again:
        assert torch.equal(again(REST), whole(model, again)[REST])
        again.add_edges(torch.tensor([[1], [5]]))
        assert again.version == before[0] + 1


def test_a_graph_that_moved_empties_what_may_differ(model, tmp_path):
    x, edge_index = graph()
    with Server(model, x, edge_index, store=tmp_path / "store") as server:
        server.warm()
    x[3] += 1
    moved = torch.cat([edge_index[:, 1:], torch.tensor([[8], [2]])], 1)
    with Server(model, x, moved, store=tmp_path / "store") as server:
        again = Server(model, *graph())
        again.warm()
        with again.transaction():
            again.update_features([3], x[[3]])
            again.add_edges(torch.tensor([[8], [2]]))
            again.remove_edges(edge_index[:, :1])
        assert stale(server) == stale(again)
        assert 0 < len(stale(server)["1"]) < NODES
        with torch.no_grad():
            assert torch.equal(server(range(NODES)), model(x, moved))
        assert server.verify() == 0
    with Server(model, x[:50], moved[:, (moved < 50).all(0)], store=tmp_path / "store") as server:
        assert all(len(ids) == 50 for ids in stale(server).values())


def test_another_model_is_refused(model, tmp_path):
    Server(model, *graph(), store=tmp_path).close()
    with pytest.raises(ServerError, match="written for the model"):
        Server(compiled("sage", amount=0.25), *graph(), store=tmp_path)


def test_an_empty_store_needs_a_graph(model, tmp_path):
    with pytest.raises(InputError, match="holds no graph"):
        Server(model, store=tmp_path)


def test_a_second_process_reads(model, tmp_path):
    asks, answers = os.pipe(), os.pipe()
    server = Server(model, *graph(), store=tmp_path)
    server.warm()
    child = os.fork()
    if not child:
        try:
            reader = Server(model, store=tmp_path)
            told = []
            for _ in range(3):
                os.read(asks[0], 1)
                told.append(torch.equal(reader(REST), whole(model, reader)[REST]) and reader.version)
                try:
                    reader.add_edges(torch.tensor([[1], [2]]))
                except ServerError as error:
                    told.append("another process" in str(error))
                os.write(answers[1], repr(told[-2:]).encode())
        finally:
            os._exit(0)
    told = []
    for number in range(3):
        os.write(asks[1], b"x")
        told.append(os.read(answers[0], 100).decode())
        server.update_features([number], torch.ones(1, WIDTH))
    os.waitpid(child, 0)
    assert told == ["[0, True]", "[1, True]", "[2, True]"]
