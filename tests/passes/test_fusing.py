"""Message passing runs on fused operators: which, in which layers, and that nothing is held per edge and channel."""

from collections import Counter

import pytest
import torch
import torch_geometric.nn as gnn
from torch import nn

import upscale_fx
from tests import zoo
from tests.passes.fused import WIDTH, fused, graph, operators_of
from tests.selection import every
from upscale_fx import operators, passes
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.compiled.inputs import SMALL
from upscale_fx.compiled.module import unfused
from upscale_fx.operators.kernels import memory

#: Layer -> the operators that its message passing becomes.
LAYERS = {
    "GCN": (lambda: gnn.GCNConv(WIDTH, 6), "csr spmm"),
    "SAGE mean": (lambda: gnn.SAGEConv(WIDTH, 6), "csr spmm"),
    "SAGE max": (lambda: gnn.SAGEConv(WIDTH, 6, aggr="max"), "csr spmm"),
    "SAGE min, project": (lambda: gnn.SAGEConv(WIDTH, 6, aggr="min", project=True), "csr spmm"),
    "GraphConv": (lambda: gnn.GraphConv(WIDTH, 6), "csr spmm"),
    "GIN": (lambda: gnn.GINConv(nn.Linear(WIDTH, 6)), "csr spmm"),
    "against the flow": (lambda: gnn.SAGEConv(WIDTH, 6, flow="target_to_source"), "csr spmm"),
    "both flows": (lambda: gnn.DirGNNConv(gnn.SAGEConv(WIDTH, 6)), "csr csr spmm spmm"),
    "Cheb, three hops": (lambda: gnn.ChebConv(WIDTH, 6, 3), "csr spmm spmm"),
    "TAG, three hops": (lambda: gnn.TAGConv(WIDTH, 6), "csr spmm spmm spmm"),
    "APPNP": (lambda: gnn.APPNP(2, 0.1), "csr spmm spmm"),
    "GCN2": (lambda: Initial(gnn.GCN2Conv(WIDTH, 0.1)), "csr spmm"),
    "gated": (lambda: gnn.GatedGraphConv(WIDTH, 2), "csr spmm spmm"),
    "EG": (lambda: gnn.EGConv(WIDTH, 6, num_heads=2, num_bases=2), "csr spmm"),
    "GAT": (lambda: gnn.GATConv(WIDTH, 6, heads=2), "csr edge_add attend"),
    "GAT with dropout": (lambda: gnn.GATConv(WIDTH, 6, heads=2, dropout=0.5), "csr edge_add edge_softmax spmm"),
    "GATv2": (lambda: gnn.GATv2Conv(WIDTH, 6, heads=2), "csr edge_additive_dot attend"),
    "transformer": (lambda: gnn.TransformerConv(WIDTH, 6, heads=2), "csr edge_dot attend"),
    "SuperGAT": (lambda: gnn.SuperGATConv(WIDTH, 6, heads=2), "csr edge_dot attend"),
    "SuperGAT, scaled": (lambda: gnn.SuperGATConv(WIDTH, 6, heads=2, attention_type="SD"), "csr edge_dot attend"),
    "AGNN": (gnn.AGNNConv, "csr edge_dot attend"),
    "FA": (lambda: Initial(gnn.FAConv(WIDTH)), "csr spmm"),
}


class Initial(nn.Module):
    """Layers that take the first features beside the current ones."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x, edge_index):
        return self.conv(x, x, edge_index)


def held_per_edge(gm):
    """Values with a row per edge, or per edge and self loop, and the channels of each."""
    flow, counts = analyse(gm), (SMALL["E"], SMALL["E"] + SMALL["N"])
    wide = [n for n in flow.axes if flow.axes[n].sizes[:1] == (None,) and flow.axes[n].pairs[0][0] in counts]
    return {n.name: flow.axes[n].count for n in wide if flow.values[n][0].is_floating_point()}


@pytest.mark.parametrize("name", every(2, LAYERS))
def test_layers_run_on_their_operators(name):
    build, expected = LAYERS[name]
    model, fast = fused(build())
    assert operators_of(fast) == Counter(expected.split())
    heads = 2 if "attend" in expected or "softmax" in expected else 1
    assert max(held_per_edge(fast).values(), default=0) <= heads, "a number per edge and head at most"
    for size in ((11, 40), (30, 7), (1, 0)):
        with torch.no_grad():
            torch.testing.assert_close(fast(*graph(*size)), model(*graph(*size)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", every(2, LAYERS))
def test_gradients_are_those_of_the_layer(name):
    model, fast = fused(LAYERS[name][0]())
    grown = []
    for module in (model, fast):
        x, edge_index = graph()
        module(x.requires_grad_(), edge_index).square().sum().backward()
        grown.append({"x": x.grad} | {name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    assert grown[0].keys() == grown[1].keys()
    for key, expected in grown[0].items():
        torch.testing.assert_close(grown[1][key], expected, rtol=1e-9, atol=1e-10)


def test_messages_that_are_not_linear_in_the_source_are_aggregated_in_order():
    model, fast = fused(gnn.EdgeConv(nn.Sequential(nn.Linear(2 * WIDTH, 6), nn.ReLU(), nn.Linear(6, 6))))
    assert operators_of(fast) == {"csr": 1, "spmm": 1}
    (spmm,) = [node for node in fast.graph.nodes if node.target is operators.spmm]
    assert spmm.args[1] is None, "rows of the messages themselves"
    torch.testing.assert_close(fast(*graph(30, 90)), model(*graph(30, 90)))


def test_the_linear_layer_of_both_ends_is_computed_once_per_node():
    """EdgeConv's first layer reads [x_i, x_j - x_i]: three products per node, not one of twice the width per edge."""
    _, fast = fused(gnn.EdgeConv(nn.Sequential(nn.Linear(2 * WIDTH, 6), nn.ReLU(), nn.Linear(6, 6))))
    flow = analyse(fast)
    products = [node for node in flow.nodes if node.target is memory.linear]
    rows = [flow.axes[node].pairs[0][0] for node in products]
    assert sorted(rows) == [SMALL["N"]] * 3 + [SMALL["E"]]


@pytest.mark.parametrize(("width", "first"), [(4, False), (WIDTH, True), (32, True)])
def test_aggregation_takes_place_on_the_narrower_side(width, first):
    _, fast = fused(gnn.SAGEConv(WIDTH, width))
    flow = analyse(fast)
    (spmm,) = [node for node in flow.nodes if node.target is operators.spmm]
    assert flow.axes[spmm].sizes[-1] == min(width, WIDTH)
    _, fast = fused(gnn.GCNConv(WIDTH, width))
    flow = analyse(fast)
    (spmm,) = [node for node in flow.nodes if node.target is operators.spmm]
    assert flow.axes[spmm].sizes[-1] == min(width, WIDTH)
    assert first == (width >= WIDTH)


def test_maxima_stay_before_the_product():
    _, fast = fused(gnn.SAGEConv(WIDTH, 2, aggr="max"))
    flow = analyse(fast)
    (spmm,) = [node for node in flow.nodes if node.target is operators.spmm]
    assert flow.axes[spmm].sizes[-1] == WIDTH


def test_the_graph_is_sorted_once_for_all_layers():
    model = zoo.without_dropout(gnn.GraphSAGE(WIDTH, 8, 4, 3)).double().eval()
    fast = upscale_fx.optimize(upscale_fx.trace(model))
    assert operators_of(fast) == {"csr": 1, "spmm": 4}


def test_nothing_is_overwritten_that_somebody_reads():
    """In-place sums and activations: inputs, parameters and values read twice keep what they hold."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x, edge_index):
            h = self.one(x)
            y = h.relu() + h
            z = x + self.two(y)
            return z.relu() + y, (x + self.one.bias).relu(), z

    model = Twice().double().eval()
    fast = upscale_fx.optimize(upscale_fx.trace(model))
    x, edge_index = graph()
    before, state = x.clone(), {name: value.clone() for name, value in fast.state_dict().items()}
    with torch.no_grad():
        torch.testing.assert_close(fast(x, edge_index), model(x, edge_index), rtol=1e-12, atol=1e-12)
    assert torch.equal(x, before)
    assert all(torch.equal(value, state[name]) for name, value in fast.state_dict().items())
    assert any("into" in str(node.target) for node in fast.graph.nodes), "something was written in place"


def test_a_fused_graph_is_pruned_again_by_its_plain_one():
    model = zoo.without_dropout(gnn.GraphSAGE(WIDTH, 16, 3, 3)).double().eval()
    once = upscale_fx.prune(model, 0.5)
    assert operators_of(once)["spmm"] == 3
    assert not operators_of(unfused(once))
    again = upscale_fx.prune(once, 0.5)
    masked = upscale_fx.mask(once, 0.5)
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in once.parameters())
    torch.testing.assert_close(again(*graph()), masked(*graph()), rtol=1e-10, atol=1e-12)
    assert upscale_fx.optimize(once).code == once.code


def test_every_fusing_pass_prints_what_it_did():
    seen = []
    model = zoo.without_dropout(gnn.GAT(WIDTH, 8, 2, 3, heads=2)).double().eval()
    upscale_fx.optimize(upscale_fx.trace(model), callback=lambda *event: seen.append(event))
    changed = {type(one): str(upscale_fx.diff(before, after)) for one, before, after in seen if after is not before}
    assert "csr" in changed[passes.SortEdges]
    assert "spmm" in changed[passes.FusePropagate]
    assert "attend" in changed[passes.FuseAttention]
