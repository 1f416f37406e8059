"""An analysis says what is true of the graph as it is: nothing of an earlier one is used once something has changed."""

import operator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import upscale_fx
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.analysis.entries import analysed_with_entries, with_entries
from upscale_fx.analysis.row_order import Order, order_of
from upscale_fx.compiled import functions
from upscale_fx.passes import CompactChannels, FoldAttention, FoldConstants, ShareStructure


class Chain(nn.Module):
    """Two linear layers, and a convolution that adds up neighbours."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x, edge_index):
        hidden = self.one(x).relu()
        return self.other(torch.zeros_like(hidden).index_add(0, edge_index[1], hidden[edge_index[0]]))


def traced(model):
    return upscale_fx.trace(model.eval())


def of(graph, *targets):
    return next(node for node in graph.graph.nodes if node.target in targets)


def first_layer(graph):
    return next(node for node in graph.graph.nodes if node.target is F.linear)


@pytest.mark.parametrize("how", ["in place", "data", "another"])
def test_a_parameter_that_changed_is_read_again(how):
    graph = traced(Chain())
    layer = first_layer(graph)
    assert analyse(graph).nonzero[layer].all()
    with torch.no_grad():
        for name in ("one.weight", "one.bias"):
            parameter = graph.get_parameter(name)
            if how == "in place":
                parameter[2] = 0
            elif how == "data":
                parameter.data[2] = 0
            else:
                value = parameter.detach().clone()
                value[2] = 0
                setattr(graph.one, name.partition(".")[2], nn.Parameter(value))
    assert analyse(graph).nonzero[layer].tolist() == [True, True, False, True, True, True]


def test_a_graph_that_was_edited_by_hand_is_read_again():
    graph = traced(Chain())
    activation = of(graph, "relu", torch.relu, F.relu)
    assert analyse(graph).relations[activation].zero == "all"
    activation.op, activation.target, activation.kwargs = "call_function", torch.sigmoid, {}
    assert analyse(graph).relations[activation].zero == "never"


@pytest.mark.parametrize("one", [ShareStructure(), FoldConstants(), FoldAttention(), CompactChannels()])
def test_passes_see_what_was_changed_between_them(one):
    """Twice the same pass on the same graph, with other weights in between."""
    graph = traced(Chain())
    one(graph)
    with torch.no_grad():
        graph.get_parameter("other.weight")[:, 1] = 0
        graph.get_parameter("one.weight")[3] = 0
        graph.get_parameter("one.bias")[3] = 0
    again = CompactChannels()(one(graph).graph_module).graph_module
    assert again.get_parameter("one.weight").shape == (4, 4)
    assert again.get_parameter("other.weight").shape == (3, 4)


def test_entries_are_analysed_as_in_a_graph_that_has_them():
    graph = traced(Chain())
    before = str(graph.graph)
    found, expected = analysed_with_entries(graph), analyse(with_entries(graph))
    assert str(graph.graph) == before
    assert str(found.module.graph) == str(expected.module.graph)
    assert functions.entry in {node.target for node in found.nodes}
    for one, other in zip(found.nodes, expected.nodes, strict=True):
        assert found.axes.get(one) == expected.axes.get(other)
        assert type(found.relations.get(one)) is type(expected.relations.get(other))
        if one in found.nonzero:
            assert found.nonzero[one].tolist() == expected.nonzero[other].tolist()


def test_entries_are_analysed_over_the_very_parameters():
    graph = traced(Chain())
    found = analysed_with_entries(graph).module
    assert found.get_parameter("one.weight") is graph.get_parameter("one.weight")
    assert all(part.training is graph.training for part in graph.modules())
    compact = CompactChannels()(graph).graph_module
    assert compact is graph or compact.get_parameter("one.weight") is not graph.get_parameter("one.weight")


def test_orders_of_rows_are_those_of_the_call():
    """One kind of call, other operands that are moved; another kind."""

    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x, edge_index):
            return self.one(x) + self.other(x).cumsum(0) + self.one(x)

    for _ in range(2):
        graph = traced(Rows())
        flow = analyse(graph)
        total = next(node for node in reversed(graph.graph.nodes) if node.target in (operator.add, torch.add))
        left, right = total.all_input_nodes
        assert order_of(flow, total, [left, right]) is Order.FOLLOWS
        assert order_of(flow, total, [left]) is Order.DEPENDS
        assert order_of(flow, total, [right]) is Order.DEPENDS
        running = of(graph, "cumsum", torch.cumsum)
        assert order_of(flow, running, running.all_input_nodes) is Order.DEPENDS
