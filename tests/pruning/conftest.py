"""A generated graph for what is pruned in steps."""

import pytest
from torch_geometric import seed_everything
from torch_geometric.datasets import FakeDataset

from tests.pruning.stepped import INPUT, OUTPUT


@pytest.fixture(scope="module")
def graph():
    """A generated graph of 120 nodes with features in float64 and a class per node."""
    seed_everything(0)  # FakeDataset draws from Python's numbers too
    data = FakeDataset(num_graphs=1, avg_num_nodes=120, num_channels=INPUT, num_classes=OUTPUT, task="node")[0]
    return data.x.double(), data.edge_index, data.y
