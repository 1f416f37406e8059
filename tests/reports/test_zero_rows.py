"""Rows of zeros that others made: they go where this is exact, and where they stay the report says why."""

import re
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GATConv, GCNConv, GINConv, GraphSAGE, SAGEConv

import upscale_fx
from tests.comparison import assert_same
from tests.selection import every

X, EDGES = (
    torch.randn(7, 6, generator=torch.Generator().manual_seed(0)).double(),
    torch.tensor([[0, 1, 2, 5], [1, 2, 0, 6]]),
)
ROWS = [1, 3, 4]


class Net(nn.Module):
    """``rows`` names the layer that gets rows of zeros; ``forward`` is the body."""

    def __init__(self, body, rows="a", bias=True, **layers):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 8, bias=bias), nn.Linear(8, 8)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.head, self.body = nn.Linear(8, 3), body
        with torch.no_grad():
            self.get_submodule(rows).weight[ROWS] = 0

    def forward(self, x, edge_index):
        return self.body(self, x, edge_index)


#: Models, and what the line about their rows says; None where they go.
KINDS = {
    "no bias": (lambda: Net(lambda m, x, e: m.head(m.a(x).relu()), bias=False), None),
    "a bias that folds": (lambda: Net(lambda m, x, e: m.head(m.a(x).relu())), None),
    "one term of two": (
        lambda: Net(lambda m, x, e: m.head((m.a(x) + m.c(x)).relu()), c=nn.Linear(6, 8)),
        "c writes into",
    ),
    "a residual": (
        lambda: Net(lambda m, x, e: m.head(m.b(h := m.a(x)) + h), rows="b"),
        "a writes into the same channels",
    ),
    "an output": (lambda: Net(lambda m, x, e: m.a(x)), "they are outputs of the model"),
    "a norm": (
        lambda: Net(lambda m, x, e: m.head(F.layer_norm(m.a(x), (8,)))),
        "keeps all its channels",
    ),
    "half of a SAGE layer": (
        lambda: Net(lambda m, x, e: m.head(m.conv(x, e).relu()), rows="conv.lin_l", conv=SAGEConv(6, 8)),
        "conv.lin_r writes into",
    ),
    "GCN with a bias": (
        lambda: Net(lambda m, x, e: m.head(m.conv(x, e).relu()), rows="conv.lin", conv=GCNConv(6, 8)),
        None,
    ),
    "GIN": (
        lambda: Net(
            lambda m, x, e: m.head(m.conv(x, e).relu()),
            rows="conv.nn.0",
            conv=GINConv(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8))),
        ),
        None,
    ),
    "one row of a head": (
        lambda: Net(lambda m, x, e: m.head(m.conv(x, e)), rows="conv.lin", conv=GATConv(6, 4, heads=2, bias=False)),
        "heads of equal width",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_go_or_the_report_says_why_not(kind):
    make, why = KINDS[kind]
    model = make().double().eval()
    unaffected = why and "heads" not in why
    with pytest.warns(upscale_fx.UpscaleWarning, match=why) if unaffected else nullcontext():
        compact = upscale_fx.compact(model, example_inputs=(X, EDGES))
    assert_same(model(X, EDGES), compact(X, EDGES))
    lines = upscale_fx.report(compact).zero_rows
    sizes = [sum(p.numel() for p in module.parameters()) for module in (model, compact)]
    if why is None:
        assert not lines
        assert sizes[1] < sizes[0]
    else:
        (line,) = lines
        assert re.match(r"[\w.]+: (3 of 8|1 of 6) rows of its weight are zero, and stay: ", line)
        assert why in line
        assert line in str(upscale_fx.report(compact))


@pytest.mark.parametrize("layers", every(2, [2, 3, 4]))
def test_structured_pruning_of_torch_is_not_silently_without_effect(layers):
    torch.manual_seed(0)
    model = GraphSAGE(6, 8, layers, 4).eval()
    for conv in model.convs[:-1]:
        nn.utils.prune.ln_structured(conv.lin_l, "weight", 0.5, 2, 0)
        nn.utils.prune.remove(conv.lin_l, "weight")
    with pytest.warns(upscale_fx.UpscaleWarning, match=r"no channel could be removed: .*lin_r writes into"):
        compact = upscale_fx.compact(model)
    assert len(upscale_fx.report(compact).zero_rows) == layers - 1
    assert "columns of zeros" in str(upscale_fx.report(compact)) or "column of zeros" in str(upscale_fx.report(compact))
