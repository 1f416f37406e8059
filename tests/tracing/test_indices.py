"""Arguments that number nodes, in any shape, leave the number of nodes free; where it is fixed, this is said."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

import upscale_fx
from tests.comparison import assert_same_outputs, parameters
from tests.selection import every
from tests.tracing.index_models import TABLE, Columns, Encoder, graph, numbers

pytestmark = pytest.mark.usefixtures("double_precision", "seeded")


@pytest.mark.parametrize("name", every(6, TABLE))
def test_a_graph_takes_any_number_of_nodes(name):
    case = TABLE[name]
    model, example = case.model().eval(), case.arguments(60)
    calls = [case.arguments(nodes) for nodes in (60, 100, 41, max(case.least, 7))]
    assert_same_outputs(model, upscale_fx.trace(model, example), calls)
    masked = upscale_fx.mask(model, 0.5, example_inputs=example)
    compiled = upscale_fx.prune(model, 0.5, example_inputs=example)
    assert_same_outputs(masked, compiled, calls)
    assert parameters(compiled) < parameters(model)
    assert not upscale_fx.report(compiled).sizes
    assert upscale_fx.verify(masked, compiled, example) < 1e-10


class Placed(nn.Module):
    """A weight per node."""

    def __init__(self, nodes=30):
        super().__init__()
        self.place, self.a, self.b = nn.Parameter(torch.randn(nodes, 6)), GCNConv(6, 12), GCNConv(12, 3)

    def forward(self, x, edge_index):
        return self.b(self.a(x + self.place, edge_index).relu(), edge_index)


class PlacedPairs(Placed):
    def forward(self, x, edge_index, pairs):
        return Placed.forward(self, x, edge_index)[pairs].sum(1)


class PlacedTable(Placed):
    def forward(self, x, edge_index, near):
        return Placed.forward(self, x, edge_index) + x[near].sum((1, 2), keepdim=True)[..., 0]


class PlacedBothTypes(nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Parameter(torch.randn(30, 6)), nn.Parameter(torch.randn(20, 6))
        self.a, self.o = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x_dict, edge_index_dict):
        user, item = x_dict["user"] + self.user, x_dict["item"] + self.item
        row, col = edge_index_dict["user", "buys", "item"]
        return self.o(self.a(item.index_add(0, col, user[row])).relu())


class PlacedAdjacency(Placed):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(30, 8)

    def forward(self, x, edge_index):
        return super().forward(x, edge_index) * self.mix(x.t()).sum()


def typed(g):
    edges = torch.stack([numbers(70, below=30, g=g), numbers(70, below=20, g=g)])
    return {"user": torch.randn(30, 6), "item": torch.randn(20, 6)}, {("user", "buys", "item"): edges}


FIXED = {
    "a weight per node": (Placed, lambda g: graph(30, g)),
    "and pairs": (PlacedPairs, lambda g: (*graph(30, g), numbers(8, 2, below=30, g=g))),
    "and a table": (PlacedTable, lambda g: (*graph(30, g), numbers(30, 4, below=30, g=g))),
    "of each type": (PlacedBothTypes, typed),
    "a layer over nodes": (PlacedAdjacency, lambda g: graph(30, g)),
}


@pytest.mark.parametrize("name", every(6, FIXED))
def test_a_fixed_number_of_nodes_is_said(name):
    make, call = FIXED[name]
    model, example = make().eval(), call(torch.Generator().manual_seed(0))
    with pytest.warns(upscale_fx.UpscaleWarning, match=r"graphs of 30 nodes.* only, as many as the example has"):
        masked = upscale_fx.mask(model, 0.5, example_inputs=example)
    with pytest.warns(upscale_fx.UpscaleWarning, match="30 nodes"):
        compiled = upscale_fx.prune(model, 0.5, example_inputs=example)
    assert "graphs of 30 nodes" in str(upscale_fx.report(compiled))
    assert_same_outputs(masked, compiled, [example, call(torch.Generator().manual_seed(1))])
    with pytest.warns(upscale_fx.UpscaleWarning, match="verify tried graphs of 30 nodes"):
        upscale_fx.verify(masked, compiled, example)


class Kinds(Encoder):
    """Categories, which are no nodes although there are enough of these."""

    def __init__(self, first=0):
        super().__init__()
        self.kinds, self.first = nn.Embedding(20, WIDE), first

    def forward(self, x, edge_index, colour):
        return self.encode(x + self.kinds(colour - self.first), edge_index)


WIDE = 6


@pytest.mark.parametrize("first", [0, 1, 5])
def test_categories_stay_what_they_are(first):
    model = Kinds(first).eval()

    def call(n):
        g = torch.Generator().manual_seed(n)
        return *graph(n, g), numbers(n, below=15, g=g) + first

    masked = upscale_fx.mask(model, 0.5, example_inputs=call(60))
    assert_same_outputs(masked, upscale_fx.prune(model, 0.5, example_inputs=call(60)), [call(60), call(33)])


def test_an_example_of_pairs_within_the_first_nodes_leaves_the_others_free():
    g = torch.Generator().manual_seed(0)
    model = Columns().eval()
    example = *graph(60, g), numbers(20, 2, below=4, g=g)
    compiled = upscale_fx.prune(model, 0.5, example_inputs=example)
    masked = upscale_fx.mask(model, 0.5, example_inputs=example)
    assert_same_outputs(masked, compiled, [TABLE["pairs [Q, 2]"].arguments(100)])
