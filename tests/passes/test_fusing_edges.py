"""Fused operators at the edges: autocast, indices beyond the nodes, values per head, targets from messages."""

import pytest
import torch
import torch_geometric.nn as gnn
from torch import nn
from torch_geometric.utils import scatter, softmax

import upscale_fx
from tests import zoo
from tests.passes.fused import WIDTH, fused, graph, operators_of
from upscale_fx import operators


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


def test_operators_alone_refuse_forward_mode_derivatives():
    """Torch would take them for zero, silently; a whole graph computes them unfused."""
    x, edge_index = graph()
    rowptr, col = torch.arange(0, len(x) + 1), edge_index[0][: len(x)].contiguous()
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: operators.spmm(rowptr, col, None, x, "sum"), (x,), (x,))


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
