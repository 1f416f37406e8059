"""Channels that hold one number in every row: folded where it is so for every graph, left where it only looks so."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch_geometric.nn import GATConv, GCNConv, GINConv, SAGEConv
from torch_geometric.utils import add_remaining_self_loops, add_self_loops, scatter  # noqa: F401 (in expressions)

import upscale_fx
from tests.analysis.constant_channels import GRAPHS, IN, OUT, WIDTH, Net, prune_rows, ready, same, shape
from tests.selection import every
from upscale_fx.analysis.constants import constants, observed
from upscale_fx.analysis.dataflow import analyse

pytestmark = [
    pytest.mark.usefixtures("seeded"),
    pytest.mark.filterwarnings("ignore:no channel could be removed"),
]


def gin(width=WIDTH):
    return GINConv(nn.Sequential(nn.Linear(IN, width), nn.ReLU(), nn.Linear(width, width)))


# What folds ----------------------------------------------------------------------------------------------------------

LAYERS = {
    "Linear": (lambda: nn.Linear(IN, WIDTH), ["layer"], "layer.weight"),
    "GCN": (lambda: GCNConv(IN, WIDTH), ["layer.lin"], "layer.lin.weight"),
    "SAGE": (lambda: SAGEConv(IN, WIDTH), ["layer.lin_l", "layer.lin_r"], "layer.lin_r.weight"),
    "GIN": (gin, ["layer.nn.2"], "layer.nn.2.weight"),
    "GAT": (lambda: GATConv(IN, 4, heads=2), ["layer.lin"], "layer.lin.weight"),
}


@pytest.mark.parametrize("between", [F.relu, torch.sigmoid, F.elu], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", LAYERS)
def test_pruned_rows_go_whatever_bias_and_activation_make_of_them(name, between):
    build, layers, weight = LAYERS[name]
    model = ready(Net(build(), between))
    for layer in layers:
        rows = torch.zeros_like(model.get_submodule(layer).weight)
        rows[[0, 3, 4, 6]] = 1
        prune.custom_from_mask(model.get_submodule(layer), "weight", rows)
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, weight)[0] == 4
    assert shape(compiled, "head.weight") == (OUT, 4)


def test_rows_pruned_by_their_norm():
    model = prune_rows(ready(Net(gin())), "layer.nn.0", amount=0.25)
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, "layer.nn.0.weight") == (6, IN)
    assert shape(compiled, "layer.nn.2.weight") == (WIDTH, 6)


def test_constants_go_through_several_layers():
    model = nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(IN, IN), nn.Sigmoid())), nn.Linear(IN, OUT))
    prune_rows(ready(model), "0", "2", "4", "6", amount=2)
    compiled = upscale_fx.compact(model, example_inputs=(GRAPHS[0][0],))
    assert same(model, compiled, graphs=[(x,) for x, _ in GRAPHS])
    assert [shape(compiled, f"{n}.weight") for n in (0, 2, 4, 6, 8)] == [(3, 5), (3, 3), (3, 3), (3, 3), (3, 3)]


class Shapes(nn.Module):
    """A dead layer of constants, used as the expression says; ``h`` is [N, 8], ``x`` [N, 5]."""

    def __init__(self, expression, width=WIDTH):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(IN, WIDTH), nn.Linear(IN, WIDTH), nn.Linear(width, OUT)
        self.scale, self.slope = nn.Parameter(torch.randn(WIDTH)), nn.PReLU(WIDTH)
        self.square, self.drop = nn.Parameter(torch.randn(WIDTH, WIDTH)), nn.Dropout(0.5)
        self.register_buffer("table", torch.randn(WIDTH))
        self.expression = expression

    def forward(self, x, edge_index):
        names = {"self": self, "x": x, "h": self.a(x).sigmoid(), "e": edge_index}
        names |= {"n": x.size(0), "g": self.b(x)}
        return self.head(eval(self.expression, globals(), names))


LOOPED = "scatter(h[add_self_loops(e, num_nodes=n)[0][0]], add_self_loops(e, num_nodes=n)[0][1], 0, n, '{}')"
#: Expression -> how many channels the head reads in the end, where rows 1, 2 and 5 of ``a`` are zero.
FOLDED = {
    "h": 5,
    "h.view(-1, 2, 4).transpose(1, 2).flatten(1)": 6,  # two and three of the heads' channels: padded to a rectangle
    "torch.cat([h, h[:, :3], g], dim=-1)": 14,
    "torch.stack([h, 2 * h], dim=1).flatten(1)": 10,
    "h[e[0]]": 5,
    "h * self.scale + self.table": 5,
    "self.slope(h - 0.5)": 5,
    "h.pow(2).clamp(min=0.1).div(3)": 5,
    "torch.maximum(h, self.table)": 5,
    "(h * self.scale).view(-1, 4, 2).mean(-1)": 4,
    "(h * self.scale).view(-1, 2, 4)[:, 0, 1:3].sum(-1, keepdim=True) + self.scale": 0,
    "h[:, 1:2] + self.scale": 0,
    "F.linear(h, self.square, self.scale)": 0,
    "F.dropout(h, 0.0, self.training)": 5,
    "F.dropout(h, 0.5, False)": 5,
    LOOPED.format("mean"): 5,
    LOOPED.format("max"): 5,
    LOOPED.format("min").replace("add_self_loops", "add_remaining_self_loops"): 5,
}


def expression_model(expression):
    width = {"cat([h, h[": 19, "stack": 16, "mean(-1)": 4}
    model = Shapes(expression, next((w for key, w in width.items() if key in expression), WIDTH))
    with torch.no_grad():
        ready(model).a.weight[[1, 2, 5]] = 0
        model.square[:, [0, 3, 4, 6, 7]] = 0  # reads constants only
    return model


@pytest.mark.parametrize(("expression", "left"), FOLDED.items(), ids=str)
def test_constants_are_followed(expression, left):
    model = expression_model(expression)
    compiled = upscale_fx.compact(model, example_inputs=GRAPHS[0])
    assert same(model, compiled)
    assert shape(compiled, "head.weight") == (OUT, max(left, 1))


#: Looks constant, or is constant on most graphs; the head must read what it read.
KEPT = {
    "scatter(h[e[0]], e[1], 0, n, 'sum')": 8,
    "scatter(h[e[0]], e[1], 0, n, 'mean')": 8,
    "scatter(h[e[0]], e[1], 0, n, 'max')": 8,
    LOOPED.format("sum"): 8,
    LOOPED.format("mean").replace("0, n, ", "0, n + 1, "): 8,
    LOOPED.format("mean").replace("num_nodes=n", ""): 8,
    LOOPED.format("max").replace("num_nodes=n", "num_nodes=n - 1"): 8,
    "scatter(h, torch.arange(n) // 2, 0, n, 'mean')": 8,
    "h * x.size(0)": 8,
    "h.cumsum(0)": 8,
    "h.sum(0, keepdim=True).expand(n, -1)": 8,
    "torch.cat([h, g])": 8,
    "torch.softmax(h, dim=0)": 8,
    "torch.softmax(h, dim=1)": 8,
    "h * x[:, :1]": 8,
    "h + x.sum()": 8,
    "F.layer_norm(h, (8,))": 8,
    "F.batch_norm(h, None, None, training=True)": 8,
    "F.instance_norm(h[None].transpose(1, 2)).transpose(1, 2)[0]": 8,
    "torch.where(x[:, :1] > 0, h, self.table)": 8,
    "h.masked_fill(x[:, :1] > 0, 1.5)": 8,
    "F.dropout(h, 0.5, self.training)": 8,
    "self.drop(h)": 8,
    "F.linear(h, self.square, x.sum(0)[[0, 1, 2, 3, 4, 0, 1, 2]])": 8,
    "F.linear(h, self.square * x.mean())": 8,
    "h[:, [1, 2, 5]].sum((0, 1), keepdim=True) + h[:, [1]] + self.scale": 8,
    "F.pad(h, (0, 0, 1, 0))": 8,
    "h.index_fill(0, torch.zeros_like(e[0, :1]), 2.0)": 8,
    "h.index_add(0, e[0], g[e[0]])": 8,
    "F.normalize(h, dim=0)": 8,
    "torch.cat([h, h.new_zeros(1, 8)])": 8,
    "h * torch.ones_like(x[:, :1]).cumsum(0)": 8,
}


@pytest.mark.parametrize("examples", [True, False], ids=["", "by the proof alone"])
@pytest.mark.parametrize(("expression", "left"), every(3, KEPT.items()), ids=str)
def test_what_depends_on_the_graph_is_kept(expression, left, examples, monkeypatch):
    if not examples:  # take the second opinion away
        monkeypatch.setattr("upscale_fx.analysis.constants.observed", lambda flow, node: True)
    model = expression_model(expression)
    compiled = upscale_fx.compact(model, example_inputs=GRAPHS[0])
    graphs = (
        GRAPHS[:2] if any(word in expression for word in ("e[0, :1]", "_norm(h, None", "instance_norm")) else GRAPHS
    )
    assert same(model, compiled, graphs=graphs)
    assert shape(compiled, "head.weight") == (OUT, left)


def test_the_examples_have_the_last_word():
    """Were a proof wrong, nothing that differs between rows or graphs would pass for a constant."""
    model = expression_model("scatter(h[e[0]], e[1], 0, n, 'sum') + x.mean()")
    flow = analyse(upscale_fx.trace(model, GRAPHS[0]))
    computed = [node for node in flow.nonzero if node.op not in ("get_attr", "placeholder")]
    assert {node.name for node in computed if observed(flow, node).any()} == {"linear", "sigmoid", "getitem_1"}


def test_edges_added_without_the_last_node_are_no_self_loops_of_all():
    """The structural proof is about one number of nodes, however equal two of them look."""
    model = expression_model(LOOPED.format("mean").replace("num_nodes=n", "num_nodes=e.max() + 1"))
    compiled = upscale_fx.compact(model, example_inputs=GRAPHS[0])
    assert same(model, compiled, graphs=GRAPHS[:2])
    assert shape(compiled, "head.weight") == (OUT, 8)


# The pass and what it leaves behind ----------------------------------------------------------------------------------


def test_constants_of_a_dense_model_are_its_parameters():
    flow = analyse(upscale_fx.trace(ready(Net(GCNConv(IN, WIDTH)))))
    found = constants(flow)
    assert found.keys() == flow.nonzero.keys()
    for node, mask in found.items():
        assert mask.all() if node.op == "get_attr" else not mask.any(), node
