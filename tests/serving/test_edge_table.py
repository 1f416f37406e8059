"""A table of edges against a plain list of edges, under random changes, with compiled loops and without."""

import itertools
import threading

import numpy as np
import pytest
import torch

from tests.serving.small_table import same, small
from upscale_fx.operators.kernels import choice
from upscale_fx.running.serving.graph import both_ends, edge_rows, edge_slots
from upscale_fx.running.serving.graph.edge_table import EdgeTable


class ListOfEdges:
    """The oracle: what an edge table does, one edge at a time."""

    def __init__(self):
        self.edges = []  # (id, source, target, weight, attributes)
        self.next_id = 0

    def add(self, pairs, weights, attributes):
        new = range(self.next_id, self.next_id + len(pairs))
        self.edges += [[i, *p, w, a] for i, p, w, a in zip(new, pairs, weights, attributes, strict=True)]
        self.next_id += len(pairs)
        return list(new)

    def remove(self, ids):
        self.edges = [edge for edge in self.edges if edge[0] not in ids]

    def between(self, pair):
        return [edge[0] for edge in self.edges if tuple(edge[1:3]) == tuple(pair)]

    def around(self, node, end):
        return [edge for edge in self.edges if edge[1 + end] == node]


def column(pairs):
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).t()


def values(weights, attributes):
    return {
        "weight": torch.tensor(weights, dtype=torch.float64),
        "attribute": torch.tensor(attributes, dtype=torch.int32).reshape(-1, 1).expand(-1, 3),
    }


def check(table, oracle, sizes, rng):
    """Compare everything that can be asked."""
    assert table.num_edges == len(oracle.edges)
    assert (table.num_sources, table.num_targets) == tuple(sizes)
    assert table.edge_index().dtype == torch.int64
    assert table.edge_index().tolist() == [[e[1] for e in oracle.edges], [e[2] for e in oracle.edges]]
    assert table.values()["weight"].tolist() == [e[3] for e in oracle.edges]
    assert table.values()["attribute"].tolist() == [[e[4]] * 3 for e in oracle.edges]
    for end in (0, 1):
        nodes = rng.integers(0, sizes[end], rng.integers(0, 6)) if sizes[end] else np.empty(0, np.int64)
        rows = [oracle.around(node, end) for node in nodes]
        around = table.around(nodes, end)
        assert np.diff(around.rowptr).tolist() == [len(row) for row in rows]
        assert around.edges.tolist() == [edge[0] for row in rows for edge in row]
        assert around.others.tolist() == [edge[2 - end] for row in rows for edge in row]
        assert {array.dtype for array in (around.rowptr, around.edges, around.others)} == {np.dtype(np.int64)}
        assert table.degrees(nodes, end).tolist() == [len(row) for row in rows]
        assert table.of_nodes(nodes, end).tolist() == sorted({edge[0] for row in rows for edge in row})
        assert table.neighbours(nodes, end).tolist() == sorted({edge[2 - end] for row in rows for edge in row})
    some = [oracle.edges[i] for i in rng.integers(0, len(oracle.edges), 4)] if oracle.edges else []
    pairs = [edge[1:3] for edge in some]
    rowptr, ids = table.match(column(pairs))
    groups = [oracle.between(pair) for pair in pairs]
    assert [ids[a:b].tolist() for a, b in itertools.pairwise(rowptr)] == groups
    assert table.find(column(pairs)).tolist() == sorted({i for group in groups for i in group})
    asked = np.array([edge[0] for edge in some], dtype=np.int64)
    assert table.values_at(asked)["weight"].tolist() == [edge[3] for edge in some]
    assert table.ends_at(asked).tolist() == [[edge[1] for edge in some], [edge[2] for edge in some]]


def draw(rng, sizes, most):
    """Draw pairs, some of them with one end in common, and values."""
    count = int(rng.integers(0, most)) if min(sizes) else 0
    pairs = [tuple(int(rng.integers(0, size)) for size in sizes) for _ in range(count)]
    if count and rng.random() < 0.3:
        hub = int(rng.integers(0, sizes[1]))
        pairs = [(source, hub) for source, _ in pairs]
    return pairs, rng.random(count).tolist(), rng.integers(0, 99, count).tolist()


@pytest.fixture(params=["numba", "torch"])
def kernels(request):
    with choice.using(request.param):
        yield request.param


@pytest.fixture
def tight(monkeypatch):
    """No spare memory, so that rows move and are packed all the time; counts how often."""
    happened = {"rows": 0, "slots": 0}
    pack, packed = edge_rows.EdgeRows._pack, edge_slots.EdgeSlots.packed

    def counted_pack(self, spare):
        happened["rows"] += 1
        pack(self, spare)

    def counted_packed(self):
        happened["slots"] += 1
        return packed(self)

    monkeypatch.setattr(edge_rows, "_FEWEST", 1)
    monkeypatch.setattr(edge_rows, "_SPARE", 0.1)
    monkeypatch.setattr(edge_slots, "_FEWEST", 1)
    monkeypatch.setattr(edge_rows.EdgeRows, "_pack", counted_pack)
    monkeypatch.setattr(edge_slots.EdgeSlots, "packed", counted_packed)
    return happened


@pytest.mark.parametrize(
    ("sizes", "edges"),
    [((8, 8), 20), ((40, 3), 60), ((3, 40), 0), ((0, 0), 0), ((0, 5), 0), ((1, 1), 1), ((200, 150), 900)],
)
def test_random_changes(kernels, tight, sizes, edges):
    for seed in range(3):
        rng, sizes = np.random.default_rng([seed, edges]), list(sizes)
        oracle, given = ListOfEdges(), draw(rng, sizes, edges + 1)
        oracle.add(*given)
        table = EdgeTable(column(given[0]), *sizes, values(*given[1:]))
        for _ in range(60):
            before = table
            change(table, oracle, sizes, rng)
            if rng.random() < 0.05:
                table = EdgeTable.from_state(before.state())
            check(table, oracle, sizes, rng)
    assert tight["rows"] > 0
    assert tight["slots"] > 0


def change(table, oracle, sizes, rng):
    """Do one of the changes."""
    kind = rng.integers(0, 10)
    if kind < 4:
        given = draw(rng, sizes, 40)
        assert table.add(column(given[0]), values(*given[1:])).tolist() == oracle.add(*given)
    elif kind < 7 and oracle.edges:
        share = 0.9 if kind == 6 else 0.2
        ids = [edge[0] for edge in oracle.edges if rng.random() < share]
        table.remove(rng.permutation(np.array(ids + ids[:2], dtype=np.int64)))
        oracle.remove(set(ids))
    elif kind == 7 and oracle.edges:
        pairs = [oracle.edges[i][1:3] for i in rng.integers(0, len(oracle.edges), 3)]
        ids = table.find(column(pairs))
        table.remove(ids)
        oracle.remove({i for pair in pairs for i in oracle.between(pair)})
    elif kind == 8 and oracle.edges:
        chosen = rng.integers(0, len(oracle.edges), 5)
        weights = rng.random(5)
        ids = np.array([oracle.edges[i][0] for i in chosen])
        table.set_values(ids, {"weight": torch.from_numpy(weights)})
        for i, weight in zip(chosen, weights, strict=True):
            oracle.edges[i][3] = weight
    elif kind == 9:
        sizes[0] += int(rng.integers(0, 3))
        sizes[1] += int(rng.integers(0, 3))
        table.grow(*sizes)


def test_a_state_holds_every_dtype_and_survives_twice():
    given = {
        "a.b": torch.randn(3, 2).bfloat16(),
        "flag": torch.tensor([True, False, True]),
        "number": torch.arange(3),
        "empty": torch.ones(3, 0),
    }
    table = EdgeTable(torch.tensor([[0, 1, 1], [0, 0, 0]]), 2, 1, given)
    table.remove(np.array([2]))
    for _ in range(2):
        table = EdgeTable.from_state({name: array.copy() for name, array in table.state().items()})
    for name, value in table.values().items():
        assert value.dtype == given[name].dtype
        assert torch.equal(value, given[name][:2])
    assert table.add(torch.tensor([[0], [0]]), {name: value[:1] for name, value in given.items()}).tolist() == [3]
    assert table.find(torch.tensor([[0], [0]])).tolist() == [0, 3]
    table.remove(np.array([0, 1, 3]))
    empty = EdgeTable.from_state(table.state())
    assert empty.num_edges == 0
    assert empty.values()["a.b"].shape == (0, 2)
    assert empty.add(torch.tensor([[0], [0]]), {name: value[:1] for name, value in given.items()}).tolist() == [4]


def test_a_table_shares_no_memory():
    edge_index, weight = torch.tensor([[0, 1], [1, 0]]), torch.ones(2)
    table = EdgeTable(edge_index, 2, 2, {"weight": weight})
    state = table.state()
    edge_index.zero_()
    weight.zero_()
    table.edge_index().zero_()
    table.values()["weight"].zero_()
    table.around(np.array([0, 1]), 1).edges[:] = 9
    assert table.edge_index().tolist() == [[0, 1], [1, 0]]
    assert table.values()["weight"].tolist() == [1, 1]
    assert table.around(np.array([0, 1]), 1).edges.tolist() == [1, 0]
    table.set_values(np.array([0]), {"weight": torch.tensor([5.0], requires_grad=True)})
    assert not table.values()["weight"].requires_grad
    same(state, EdgeTable(torch.tensor([[0, 1], [1, 0]]), 2, 2, {"weight": torch.ones(2)}).state())


def test_an_index_is_built_when_it_is_asked_for(monkeypatch):
    built = []
    monkeypatch.setattr(both_ends, "EdgeRows", lambda *a: built.append(1) or edge_rows.EdgeRows(*a))
    table = small()
    table.add(torch.tensor([[0], [0]]), {"weight": torch.ones(1)})
    table.set_values(np.array([0]), {"weight": torch.ones(1)})
    assert len(built) == 0
    table.around(np.array([0]), 1)
    table.of_nodes(np.array([0]), 1)
    assert len(built) == 1
    table.find(torch.tensor([[0], [0]]))
    table.remove(np.array([0]))
    table.find(torch.tensor([[0], [0]]))
    assert len(built) == 2


def test_memory_stays_bounded_while_edges_come_and_go(kernels):
    rng = np.random.default_rng(0)
    table = EdgeTable(torch.from_numpy(rng.integers(0, 500, (2, 3000))), 500, 500, {"weight": torch.rand(3000)})
    table.find(table.edge_index()[:, :1])
    first, waiting, oldest = table.nbytes, [], 0
    for _ in range(400):
        waiting.append(table.add(torch.from_numpy(rng.integers(0, 500, (2, 200))), {"weight": torch.rand(200)}))
        if len(waiting) > 3:
            oldest = waiting.pop(0)
            table.remove(oldest)
    assert table.num_edges == 3600
    assert table.nbytes < 5 * first
    assert oldest[-1] > 80_000 - 800


def test_numbers_of_nodes_grow_one_by_one():
    table = EdgeTable(torch.empty(2, 0, dtype=torch.int32), 0, 0)
    for node in range(50):
        table.around(np.empty(0, np.int64), 0)
        table.grow(node + 1, node + 1)
        table.add(torch.tensor([[node, 0], [0, node]]))
    assert table.degrees(np.arange(50), 0).tolist() == [51] + [1] * 49
    assert table.degrees(np.arange(50), 1).tolist() == [51] + [1] * 49
    assert table.neighbours(np.array([0]), 1).tolist() == list(range(50))


def test_threads_may_ask_at_the_same_time():
    rng = np.random.default_rng(0)
    table = EdgeTable(torch.from_numpy(rng.integers(0, 100, (2, 5000))), 100, 100)
    expected = EdgeTable(table.edge_index(), 100, 100).around(np.arange(100), 1).edges
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(table.around(np.arange(100), 1))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert all(np.array_equal(answer.edges, expected) for answer in answers)
