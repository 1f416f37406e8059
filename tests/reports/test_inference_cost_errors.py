"""What the cost of inference is refused for."""

import pytest
import torch
import torch_geometric.nn as gnn
from torch import nn

import upscale_fx
from tests.zoo import make
from upscale_fx.errors import InputError
from upscale_fx.reports.inference_cost import cost_per_node

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("degree", [0, -1, float("nan"), float("inf"), "3", None, True])
def test_a_degree_is_a_positive_number(degree):
    with pytest.raises(InputError, match="degree must be a positive number"):
        cost_per_node(upscale_fx.trace(make("gcn")), degree=degree)


@pytest.mark.parametrize("fanouts", [[], [3], [3, 3], [3, 3, 3, 3]])
def test_there_is_one_fanout_per_hop(fanouts):
    with pytest.raises(InputError, match=f"3 hops away, so fanouts takes 3 numbers, got {len(fanouts)}"):
        cost_per_node(upscale_fx.trace(make("gcn")), degree=3, fanouts=fanouts)


def test_a_fanout_is_a_positive_number():
    with pytest.raises(InputError, match=r"fanouts\[1\] must be a positive number"):
        cost_per_node(upscale_fx.trace(make("gcn")), degree=3, fanouts=[3, 0, 3])


def test_a_model_is_traced_first():
    with pytest.raises(InputError, match=r"got Sequential; pass upscale_fx.trace\(model\)"):
        cost_per_node(nn.Sequential(), degree=3)


def test_a_graph_without_edges_has_no_cost_per_edge():
    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(6, 4)

        def forward(self, x):
            return self.lin(x)

    with pytest.raises(InputError, match="goes along edges"):
        cost_per_node(upscale_fx.trace(Alone()), degree=3)


def test_pairs_of_nodes_are_refused():
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = gnn.GCNConv(6, 4)

        def forward(self, x, edge_index):
            h = self.conv(x, edge_index)
            return h @ h.t()

    with pytest.raises(InputError, match=r"rows of kind N\*N, which no degree counts"):
        cost_per_node(upscale_fx.trace(Pairs()), degree=3)


def test_a_second_kind_of_nodes_is_refused():
    given = (torch.randn(9, 6), torch.randn(7, 5)), torch.randint(7, (2, 22))
    with pytest.raises(InputError, match="or a second kind of nodes"):
        cost_per_node(upscale_fx.trace(gnn.SAGEConv((6, 5), 4), given), degree=3)


def test_rows_of_graphs_are_refused():
    with pytest.raises(InputError, match="has one row for each of B, neither nodes nor edges"):
        cost_per_node(upscale_fx.trace(make("pool-add")), degree=3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("norm-graph", "reads rows of kind B and gives rows of kind N"),
        ("link-dot", "has one row for each of E"),
        ("pool-whole-graph", "is one value for the whole graph"),
    ],
)
def test_batched_inference_needs_one_node_and_its_neighbours(name, message):
    traced = upscale_fx.trace(make(name))
    assert cost_per_node(traced, degree=3).full > 0
    with pytest.raises(InputError, match=message):
        cost_per_node(traced, degree=3, fanouts=[3, 3])
