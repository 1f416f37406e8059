"""What a table of edges refuses, and that nothing is changed by it."""

import numpy as np
import pytest
import torch

from tests.serving.small_table import same, small
from upscale_fx.errors import InputError, ServerError
from upscale_fx.operators.kernels import choice
from upscale_fx.running.serving.graph import edge_rows
from upscale_fx.running.serving.graph.edge_table import EdgeTable


@pytest.fixture(params=["numba", "torch"])
def kernels(request):
    with choice.using(request.param):
        yield request.param


BAD = [
    (lambda t: t.add(torch.tensor([[3], [0]]), {"weight": torch.ones(1)}), InputError, r"edge_index\[0, 0\] is 3"),
    (lambda t: t.add(torch.tensor([[0, 0], [0, -1]]), {"weight": torch.ones(2)}), InputError, r"edge_index\[1, 1\]"),
    (lambda t: t.add(torch.tensor([[0.0], [0.0]]), {"weight": torch.ones(1)}), InputError, r"int64 tensor \[2, E\]"),
    (lambda t: t.add(torch.tensor([0, 0]), {"weight": torch.ones(1)}), InputError, r"not int64 \[2\]"),
    (lambda t: t.add([[0], [0]], {"weight": torch.ones(1)}), InputError, "not list"),
    (lambda t: t.add(torch.tensor([[0], [0]])), InputError, "weight is missing"),
    (lambda t: t.add(torch.tensor([[0], [0]]), {"weight": torch.ones(2)}), InputError, "one row for each of 1"),
    (lambda t: t.add(torch.tensor([[0], [0]]), {"weight": torch.ones(1, 1)}), InputError, r"must be float32 \[1\]"),
    (lambda t: t.add(torch.tensor([[0], [0]]), {"weight": torch.ones(1).double()}), InputError, "not float64"),
    (lambda t: t.add(torch.tensor([[0], [0]]), {"weight": torch.ones(1), "x": torch.ones(1)}), InputError, "called x"),
    (lambda t: t.add(torch.tensor([[0], [0]]), {"weight": 1.0}), InputError, "not float"),
    (lambda t: t.find(torch.tensor([[0, 2, 1], [1, 2, 0]])), ServerError, r"from node 2 to node 2 \(pair 1 of 3\)"),
    (lambda t: t.find(torch.tensor([[1], [0]])), ServerError, "from node 1 to node 0"),
    (lambda t: t.find(torch.tensor([[0, 9, 1], [1, 1, 1]])), ServerError, r"from node 9 to node 1 \(pair 1"),
    (lambda t: t.find(torch.tensor([[1, 9], [1, 1]])), ServerError, r"from node 1 to node 1 \(pair 0"),
    (lambda t: t.find(torch.tensor([[0], [-1]])), ServerError, "to node -1"),
    (lambda t: t.find(torch.tensor([[10**9], [1]])), ServerError, "from node 1000000000"),
    (lambda t: t.remove(np.array([0, 1])), ServerError, "id 1: it was removed"),
    (lambda t: t.remove(np.array([0, 4])), ServerError, "id 4: it was never added"),
    (lambda t: t.remove(np.array([-1])), ServerError, "id -1"),
    (lambda t: t.remove(np.array([0.0])), InputError, "flat array of integers"),
    (lambda t: t.remove(np.array([[0]])), InputError, "flat array of integers"),
    (lambda t: t.set_values(np.array([0, 1]), {"weight": torch.ones(2)}), ServerError, "id 1"),
    (lambda t: t.set_values(np.array([0]), {"weight": torch.ones(2)}), InputError, "one row for each of 1"),
    (lambda t: t.set_values(np.array([0]), {"width": torch.ones(1)}), InputError, "called width; there are: weight"),
    (lambda t: t.values_at(np.array([1])), ServerError, "id 1"),
    (lambda t: t.around(np.array([0, 3]), 0), InputError, r"nodes\[1\] is 3: there are 3 source nodes"),
    (lambda t: t.around(np.array([-1]), 1), InputError, "4 target nodes"),
    (lambda t: t.around(np.array([0]), 2), InputError, "end is 2"),
    (lambda t: t.degrees(np.array([4]), 1), InputError, "4 target nodes"),
    (lambda t: t.grow(2, 4), InputError, "num_sources is 2"),
    (lambda t: t.grow(5, 3), InputError, "num_targets is 3"),
    (lambda t: t.grow(3, 2**31), InputError, "num_targets is 2147483648"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_an_error_changes_nothing(kernels, call, error, message):
    table = small()
    for end in (0, 1):
        table.around(np.array([0]), end)
    before = table.state()
    with pytest.raises(error, match=message):
        call(table)
    same(table.state(), before)
    assert table.find(torch.tensor([[0, 2], [1, 3]])).tolist() == [0, 2, 3]
    assert table.add(torch.tensor([[2], [0]]), {"weight": torch.ones(1)}).tolist() == [4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.tensor([[0], [1]]), 1, 1), r"edge_index\[1, 0\] is 1"),
        ((torch.tensor([[0], [1]]), 0, 2), "there are no source nodes"),
        ((torch.tensor([[0], [1]]), 1, 2, {"w": torch.ones(2)}), "one row for each of 1"),
        ((torch.tensor([[0], [1]]), 1, 2, {"w": torch.tensor(1.0)}), r"not float32 \[\]"),
        ((torch.tensor([[0], [1]]), -1, 2), "num_sources is -1"),
    ],
)
def test_a_table_of_wrong_arguments_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        EdgeTable(*arguments)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("insert", lambda t: t.add(torch.tensor([[0], [0]]), {"weight": torch.ones(1)})),
        ("erase", lambda t: t.remove(np.array([0]))),
        ("grow", lambda t: t.grow(9, 9)),
    ],
)
def test_memory_that_ends_in_the_middle_changes_nothing(monkeypatch, name, change):
    table, calls = small(), []
    for end in (0, 1):
        table.around(np.array([0]), end)
    before, original = table.state(), getattr(edge_rows.EdgeRows, name)

    def fails_second(self, *arguments):
        if calls:
            raise MemoryError
        calls.append(1)
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(edge_rows.EdgeRows, name, fails_second)
        with pytest.raises(MemoryError):
            change(table)
    same(table.state(), before)
    assert table.around(np.array([0]), 0).edges.tolist() == [0, 2]
    assert table.around(np.array([0, 1]), 1).edges.tolist() == [0, 2]
    table.remove(np.array([0]))
    assert table.find(torch.tensor([[0], [1]])).tolist() == [2]


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("ids", np.array([0, 2])),
        ("ids", np.array([0, 2, 2])),
        ("ids", np.array([0, 2, 4])),
        ("ends", np.array([[0, 0, 3], [1, 1, 3]])),
        ("values.float32.weight", np.zeros((2, 4), np.uint8)),
    ],
)
def test_a_state_that_does_not_fit_is_refused(name, array):
    state = small().state() | {name: array}
    with pytest.raises(InputError):
        EdgeTable.from_state(state)
