"""Which loops a table of edges runs, and how often they are compiled."""

import numpy as np
import pytest
import torch
from torch_geometric import EdgeIndex

from tests.serving.small_table import small
from upscale_fx.errors import CompilationError
from upscale_fx.operators.kernels import choice
from upscale_fx.running.serving.graph import array_loops, loops
from upscale_fx.running.serving.graph.edge_table import EdgeTable


def test_integers_of_any_kind_are_taken_and_loops_are_compiled_once():
    with choice.using("numba"):
        compiled = loops._compiled()
        table = EdgeTable(torch.tensor([[0, 1], [1, 0]], dtype=torch.int32), 2, 2)
        frozen = np.frombuffer(np.array([1, 0]).tobytes(), np.int64)
        unaligned = np.frombuffer(bytearray(b"\0" + frozen.tobytes()), np.uint8)[1:].view(np.int64)
        for nodes in (frozen, unaligned, np.array([1, 9, 0])[::2], np.array([1, 0], np.int32), [1, 0]):
            assert table.around(nodes, 1).edges.tolist() == [0, 1]
        assert table.around([], 0).rowptr.tolist() == [0]
        table.remove(table.add(EdgeIndex(torch.tensor([[0, 1], [0, 1]]))))
        table.remove(table.add(torch.tensor([[0, 0], [1, 1]]).t()[:2].to(torch.int32)))
        for _ in range(3):
            table.remove(table.add(torch.zeros(2, 3000, dtype=torch.int64)))
        table.add(torch.zeros(2, 3000, dtype=torch.int64))
        table.find(torch.tensor([[1, 7], [0, 7]])[:, :1])
        table = EdgeTable.from_state(table.state())
        table.remove(table.find(torch.tensor([[0], [0]])))
        assert table.edge_index().tolist() == [[0, 1], [1, 0]]
        for name in ("place", "insert", "erase", "copy", "renumber", "gather", "match"):
            (loop,) = getattr(compiled, name)._compiled.values()
            assert len(loop.signatures) == 1, name


def test_loops_that_numba_cannot_compile_run_on_arrays(monkeypatch):
    def fails(*_):
        raise CompilationError("numba 0 cannot compile it")

    with choice.using("numba"):
        compiled = loops._compiled()
    ran = []

    def counted(*arguments):
        ran.append(1)
        return gather(*arguments)

    gather = array_loops.gather
    monkeypatch.setattr(compiled, "gather", fails)
    monkeypatch.setattr(array_loops, "gather", counted)
    table = small()
    with choice.using("numba"), pytest.raises(CompilationError):
        table.around(np.array([1]), 1)
    try:
        with choice.using(""):
            assert table.around(np.array([1]), 1).edges.tolist() == [0, 2]
            assert choice.name() == "torch"
            assert table.around(np.array([1]), 1).edges.tolist() == [0, 2]
    finally:
        choice.choose_again()
    assert len(ran) == 2
