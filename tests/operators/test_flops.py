"""torch's counter counts fused graphs: linear layers as in the model, and 2 E C for every sum of messages."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torch_geometric.nn import GAT, GCN, GIN, GraphSAGE, SAGEConv, TransformerConv
from torch_geometric.utils import add_self_loops, remove_self_loops

import upscale_fx
from upscale_fx import operators

N, E = 40, 160
DRAW = torch.Generator().manual_seed(0)
EDGES = torch.randint(N, (2, E), generator=DRAW)
LOOPED = add_self_loops(remove_self_loops(EDGES)[0], num_nodes=N)[0].size(1)
X = torch.randn(N, 16, generator=DRAW)

# By operator, what is counted by hand forward, and in addition backward: edges, channels per edge.
MODELS = {
    "SAGE": (GraphSAGE(16, 32, 2, 32), {"spmm": 2 * E * (16 + 32)}, {"spmm_transposed": 2 * E * 32}),
    "GCN": (GCN(16, 16, 2, 16), {"spmm": 2 * LOOPED * 32}, {"spmm_transposed": 2 * LOOPED * 32}),
    "GIN": (GIN(16, 32, 2, 4), {"spmm": 2 * E * 48}, {"spmm_transposed": 2 * E * 32}),
    "GAT": (
        GAT(16, 32, 1, heads=4),
        {"attend": 2 * LOOPED * 32},
        {"edge_dot": 2 * LOOPED * 32, "spmm_transposed": 2 * LOOPED * 32},
    ),
    "GATv2": (
        GAT(16, 32, 1, heads=4, v2=True),
        {"edge_additive_dot": 2 * LOOPED * 32, "attend|spmm": 2 * LOOPED * 32},
        {"edge_additive_dot_backward": 4 * LOOPED * 32, "edge_dot": 2 * LOOPED * 32,
         "spmm_transposed": 2 * LOOPED * 32},
    ),
    "attention": (TransformerConv(16, 8, heads=2), {"edge_dot": 2 * E * 16, "attend": 2 * E * 16}, None),
    "max": (SAGEConv(16, 8, aggr="max"), {"spmm": 2 * E * 16}, {}),
}  # fmt: skip


def counted(call):
    """What torch counts in a call, by operator; all of torch's own products together."""
    with FlopCounterMode(display=False) as counter:
        call()
    counts = {"products": 0}
    for operator, number in counter.get_flop_counts()["Global"].items():
        space, _, name = str(operator).rpartition(".")
        key = name if space == "upscale_fx" else "products"
        counts[key] = counts.get(key, 0) + number
    return counts


def named(expected, counts):
    """Expected counts by the names in use, where there are two."""
    return {next((name for name in key.split("|") if name in counts), key): value for key, value in expected.items()}


@pytest.mark.parametrize("name", MODELS)
def test_fused_graphs_are_counted(name):
    model, forward, backward = MODELS[name]
    traced = upscale_fx.trace(model.eval(), (X, EDGES))
    fused = upscale_fx.optimize(traced)
    plain, counts = counted(lambda: traced(X, EDGES)), counted(lambda: fused(X, EDGES))
    extra = counts.pop("products") - plain["products"]
    assert counts == named(forward, counts)
    assert extra >= 0  # products of heads with attention vectors, which the model computes entry by entry
    if name != "GAT":
        assert extra == 0
    if backward is not None:
        both = counted(lambda: fused(X, EDGES).sum().backward())
        both.pop("products")
        assert both == named(forward, counts) | backward


CALLS = {
    "sums": (lambda ptr, col, w, x: operators.spmm(ptr, col, None, x, "sum"), 2 * E * 12, 2 * E * 12),
    "weights": (lambda ptr, col, w, x: operators.spmm(ptr, col, w, x, "sum"), 2 * E * 12, 4 * E * 12),
    "means": (lambda ptr, col, w, x: operators.spmm(ptr, col, None, x, "mean"), 2 * E * 12, 2 * E * 12),
    "max": (lambda ptr, col, w, x: operators.spmm(ptr, col, None, x, "max"), 2 * E * 12, 2 * E * 12),
    "max of weighted": (lambda ptr, col, w, x: operators.spmm(ptr, col, w, x, "max"), 2 * E * 12, 4 * E * 12),
    "transposed": (lambda ptr, col, w, x: operators.spmm_transposed(ptr, col, w, x, N), 2 * E * 12, 4 * E * 12),
    "softmax": (lambda ptr, col, w, x: operators.edge_softmax(ptr, w), 0, 0),
    "attention": (operators.attend, 2 * E * 12, 4 * E * 12),
    "products": (lambda ptr, col, w, x: operators.edge_dot(ptr, col, x, x), 2 * E * 12, 4 * E * 12),
    "rows as edges": (lambda ptr, col, w, x: operators.spmm(ptr, None, None, x[col], "sum"), 2 * E * 12, 2 * E * 12),
}


@pytest.mark.parametrize("name", CALLS)
def test_operators_are_counted(name):
    call, forward, backward = CALLS[name]
    ptr, order = operators.csr(EDGES[1], N)
    weight, x = torch.rand(E, 3, requires_grad=True), torch.randn(N, 3, 4, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        out = call(ptr, EDGES[0][order], weight, x)
    assert counter.get_total_flops() == forward
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    assert counter.get_total_flops() == backward


def test_counts_name_the_layers():
    fused = upscale_fx.optimize(upscale_fx.trace(MODELS["GCN"][0], (X, EDGES)))
    with FlopCounterMode(display=False) as counter:
        fused(X, EDGES)
    by_module = counter.get_flop_counts()
    assert sum(by_module["CompiledGNN.convs.1.lin"].values()) == 2 * N * 16 * 16
