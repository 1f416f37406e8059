"""A small table of edges, and when two are the same."""

import numpy as np
import torch

from upscale_fx.running.serving.graph.edge_table import EdgeTable


def small():
    """Return a table whose edge 1 is gone."""
    table = EdgeTable(torch.tensor([[0, 1, 0, 2], [1, 0, 1, 3]]), 3, 4, {"weight": torch.arange(4.0)})
    table.remove(np.array([1]))
    return table


def same(state, other):
    assert state.keys() == other.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(array, other[name])
