"""Message passing runs on fused operators: which, in which layers, and that nothing is held per edge and channel."""

from collections import Counter

import pytest
import torch
import torch_geometric.nn as gnn
from torch import nn
from torch_geometric.utils import scatter, softmax

import upscale_fx
from tests import zoo
from upscale_fx import operators, passes
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.compiled.inputs import SMALL
from upscale_fx.compiled.module import all_nodes, unfused
from upscale_fx.operators.kernels import memory

WIDTH = 8
OPERATORS = {getattr(operators, name): name for name in operators.__all__}

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


def graph(nodes=11, edges=40, dtype=torch.float64):
    draw = torch.Generator().manual_seed(nodes)
    return torch.randn(nodes, WIDTH, generator=draw, dtype=dtype), torch.randint(nodes, (2, edges), generator=draw)


class Initial(nn.Module):
    """Layers that take the first features beside the current ones."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x, edge_index):
        return self.conv(x, x, edge_index)


def fused(model, **options):
    torch.manual_seed(0)
    zoo.randomise(model := model.double().eval())
    return model, upscale_fx.optimize(upscale_fx.trace(model, graph()), **options)


def operators_of(gm):
    return Counter(OPERATORS[node.target] for node in all_nodes(gm) if node.target in OPERATORS)


def held_per_edge(gm):
    """Values with a row per edge, or per edge and self loop, and the channels of each."""
    flow, counts = analyse(gm), (SMALL["E"], SMALL["E"] + SMALL["N"])
    wide = [n for n in flow.axes if flow.axes[n].sizes[:1] == (None,) and flow.axes[n].pairs[0][0] in counts]
    return {n.name: flow.axes[n].count for n in wide if flow.values[n][0].is_floating_point()}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_run_on_their_operators(name):
    build, expected = LAYERS[name]
    model, fast = fused(build())
    assert operators_of(fast) == Counter(expected.split())
    heads = 2 if "attend" in expected or "softmax" in expected else 1
    assert max(held_per_edge(fast).values(), default=0) <= heads, "a number per edge and head at most"
    for size in ((11, 40), (30, 7), (1, 0)):
        with torch.no_grad():
            torch.testing.assert_close(fast(*graph(*size)), model(*graph(*size)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
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


class ReturnsShares(nn.Module):
    """Gives back a value per edge, which must stay in the order of the edges."""

    def __init__(self):
        super().__init__()
        self.score, self.lin = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 4)

    def forward(self, x, edge_index):
        row, col = edge_index[1], edge_index[0]
        shares = softmax(self.score(x[col] + x[row]), row, num_nodes=x.size(0))
        out = x.new_zeros(x.size(0), 4).index_add(0, row, shares * self.lin(x)[col])
        return out, shares


def test_values_returned_per_edge_keep_the_order_of_the_edges():
    for model in (ReturnsShares(), gnn.GATConv(WIDTH, 6, heads=2)):
        torch.manual_seed(0)
        zoo.randomise(model.double().eval())
        extra = {} if isinstance(model, ReturnsShares) else {"return_attention_weights": True}
        kwargs = {**dict(zip(("x", "edge_index"), graph(), strict=True)), **extra}
        fast = upscale_fx.optimize(upscale_fx.trace(model, example_kwargs=kwargs))
        assert extra == {} or operators_of(fast)["spmm"] == 1
        for size in ((11, 40), (30, 90)):
            given = {**dict(zip(("x", "edge_index"), graph(*size), strict=True)), **extra}
            torch.testing.assert_close(fast(**given), model(**given), rtol=1e-10, atol=1e-12)


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


@pytest.mark.parametrize("rows", [80, 39, 1])
@pytest.mark.parametrize(
    "build",
    [lambda: gnn.GraphConv(WIDTH, 6), lambda: gnn.LEConv(WIDTH, 6), lambda: gnn.GraphConv(WIDTH, 6, aggr="max")],
)
def test_as_many_weights_as_edges(build, rows):
    model = build().double()
    fast = upscale_fx.optimize(upscale_fx.trace(model, (*graph(), torch.rand(40, dtype=torch.float64))))
    with pytest.raises(upscale_fx.InputError, match=f"{rows} rows, but there are 40 edges"):
        fast(*graph(), torch.rand(rows, dtype=torch.float64))


def test_forward_mode_derivatives_are_refused():
    """Torch would take them for zero, silently."""
    model, fast = fused(gnn.GCNConv(WIDTH, 6))
    (x, edge_index), traced = graph(), upscale_fx.trace(model)
    for transform in (lambda f: torch.func.jvp(f, (x,), (x,)), lambda f: torch.func.jacfwd(f)(x)):
        transform(lambda x: traced(x, edge_index))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            transform(lambda x: fast(x, edge_index))


class OneValuePerHead(nn.Module):
    """A weight per edge and head that one value is repeated along."""

    def __init__(self):
        super().__init__()
        self.score, self.lin = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 1)

    def forward(self, x, edge_index):
        value = self.lin(x).view(-1, 1, 1).index_select(0, edge_index[0])
        weight = self.score(x).index_select(0, edge_index[1]).sigmoid().unsqueeze(-1)
        return scatter(weight * value, edge_index[1], 0, x.size(0), "sum")


def test_a_value_that_is_repeated_along_the_heads_of_its_weight():
    model, fast = fused(OneValuePerHead())
    for size in ((11, 40), (30, 90)):
        torch.testing.assert_close(fast(*graph(*size)), model(*graph(*size)), rtol=1e-10, atol=1e-12)


class TargetsFromMessages(nn.Module):
    """Messages decide where the next messages go, so they cannot be sorted by that beforehand."""

    def __init__(self):
        super().__init__()
        self.score, self.lin = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 4)

    def forward(self, x, edge_index):
        sent = self.lin(x)[edge_index[0]] * self.score(x)[edge_index[1]].sigmoid()
        target = (sent.sum(-1) > 0).long() * edge_index[1]
        return scatter(sent, target, 0, x.size(0), "sum")


def test_targets_computed_from_the_messages():
    model, fast = fused(TargetsFromMessages())
    for size in ((11, 40), (30, 90)):
        torch.testing.assert_close(fast(*graph(*size)), model(*graph(*size)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("build", [gnn.GCN, gnn.GraphSAGE, gnn.GAT, gnn.GIN])
def test_autocast_computes_in_the_dtype_it_names(build, grad):
    torch.manual_seed(0)
    model = build(WIDTH, 16, 2, 3).eval()
    fast = upscale_fx.optimize(upscale_fx.trace(model))
    with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = model(*graph(dtype=torch.float32)), fast(*graph(dtype=torch.float32))
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_an_index_beyond_the_nodes_is_an_error():
    _, fast = fused(gnn.SAGEConv(WIDTH, 6))
    x, edge_index = graph()
    for row in (0, 1):
        wrong = edge_index.clone()
        wrong[row, 3] = x.size(0)
        with pytest.raises(IndexError):
            fast(x, wrong)


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
