"""Channels that hold one number in every row: folded where it is so for every graph, left where it only looks so."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch_geometric.nn import GATConv, GATv2Conv, GCNConv, GINConv, SAGEConv
from torch_geometric.utils import add_remaining_self_loops, add_self_loops, scatter  # noqa: F401 (in expressions)

import upscale_fx
from upscale_fx.analysis.constants import _Analysis, constants
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.compiled.module import record_of
from upscale_fx.passes import CompactChannels, FoldConstants, ShareStructure

IN, WIDTH, OUT = 5, 8, 3


def graph(nodes, edges, seed=0):
    """A graph in which the last node has no edge."""
    draw = torch.Generator().manual_seed(seed)
    ends = torch.randint(max(nodes - 1, 1), (2, edges), generator=draw)
    return torch.randn(nodes, IN, generator=draw, dtype=torch.float64), ends


GRAPHS = (graph(9, 20), graph(40, 90), graph(1, 0))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def ready(model):
    """In float64 and eval mode, with biases and statistics that fresh layers do not have."""
    model = model.double().eval()
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith(("bias", "running_mean")):
                value.normal_()
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2)
    return model


def prune_rows(model, *names, amount=0.5):
    """Set the least rows of these weights to zero; biases stay."""
    for name in names:
        prune.ln_structured(model.get_submodule(name), "weight", amount, n=2, dim=0)
    return model


def same(model, other, tolerance=1e-10, graphs=GRAPHS):
    """Whether two models compute the same on all graphs."""
    arguments = 1 if "edge_index" not in model.forward.__code__.co_varnames else 2
    for one in graphs:
        torch.testing.assert_close(
            other(*one[:arguments]), model(*one[:arguments]), rtol=tolerance, atol=tolerance, equal_nan=True
        )
    return True


def shape(gm, name):
    return tuple(gm.get_parameter(name).shape)


class Net(nn.Module):
    """A layer, an activation and what else stands between, and a head."""

    def __init__(self, layer, between=F.relu, head=None, width=WIDTH):
        super().__init__()
        self.layer, self.head = layer, head or nn.Linear(width, OUT)
        self.between = between

    def forward(self, x, edge_index):
        h = self.layer(x) if isinstance(self.layer, nn.Linear) else self.layer(x, edge_index)
        return self.head(self.between(h))


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
@pytest.mark.parametrize(("expression", "left"), KEPT.items(), ids=str)
def test_what_depends_on_the_graph_is_kept(expression, left, examples, monkeypatch):
    if not examples:  # take the second opinion away
        monkeypatch.setattr(_Analysis, "_observed", lambda self, node: True)
    model = expression_model(expression)
    compiled = upscale_fx.compact(model, example_inputs=GRAPHS[0])
    graphs = (
        GRAPHS[:2] if any(word in expression for word in ("e[0, :1]", "_norm(h, None", "instance_norm")) else GRAPHS
    )
    assert same(model, compiled, graphs=graphs)
    assert shape(compiled, "head.weight") == (OUT, left)


def test_the_examples_have_the_last_word(monkeypatch):
    """Were a proof wrong, nothing that differs between rows or graphs would pass for a constant."""
    monkeypatch.setattr(_Analysis, "_proved", lambda self, node: np.ones(self.flow.axes[node].count, dtype=bool))
    model = expression_model("scatter(h[e[0]], e[1], 0, n, 'sum') + x.mean()")
    flow = analyse(upscale_fx.trace(model, GRAPHS[0]))
    found = constants(flow)
    assert {node.name for node, mask in found.items() if node.op not in ("get_attr", "placeholder") and mask.any()} == {
        "linear", "sigmoid", "getitem_1"
    }  # fmt: skip


def test_edges_added_without_the_last_node_are_no_self_loops_of_all():
    """The structural proof is about one number of nodes, however equal two of them look."""
    model = expression_model(LOOPED.format("mean").replace("num_nodes=n", "num_nodes=e.max() + 1"))
    compiled = upscale_fx.compact(model, example_inputs=GRAPHS[0])
    assert same(model, compiled, graphs=GRAPHS[:2])
    assert shape(compiled, "head.weight") == (OUT, 8)


# Modes ---------------------------------------------------------------------------------------------------------------


class Normed(nn.Module):
    """Batch norm and dropout behind a pruned layer."""

    def __init__(self, norm=True, p=0.5, functional=0.5):
        super().__init__()
        self.functional = functional
        self.conv, self.norm = GCNConv(IN, WIDTH), nn.BatchNorm1d(WIDTH) if norm else nn.Identity()
        self.drop, self.head = nn.Dropout(p), SAGEConv(WIDTH, OUT)

    def forward(self, x, edge_index):
        h = self.drop(self.norm(self.conv(x, edge_index)).relu())
        return self.head(F.dropout(h, self.functional if self.training else 0.0, self.training), edge_index)


@pytest.mark.parametrize("norm", [True, False])
def test_norm_and_dropout_are_looked_through_for_inference_only(norm):
    model = prune_rows(ready(Normed(norm)), "conv.lin")
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, "head.lin_r.weight") == (OUT, WIDTH)
    fast = upscale_fx.optimize(compiled, inference=True)
    assert same(model, fast)
    assert shape(fast, "head.lin_r.weight") == (OUT, 4)
    assert compiled.training == model.training
    assert shape(compiled, "head.lin_r.weight") == (OUT, WIDTH), "the argument is left alone"


def test_a_mean_without_self_loops_keeps_its_side_of_the_layer():
    model = prune_rows(ready(Normed()), "conv.lin")
    fast = upscale_fx.optimize(upscale_fx.compact(model), inference=True)
    assert shape(fast, "head.lin_l.weight") == (OUT, WIDTH)


def test_for_inference_means_for_eval_only():
    model = prune_rows(ready(Normed()), "conv.lin")
    fast = upscale_fx.optimize(upscale_fx.trace(model.train()), inference=True)
    assert not any(part.training for part in fast.modules())
    for one in (fast, copy.deepcopy(fast), upscale_fx.compact(fast)):
        assert record_of(one).eval_only
        with pytest.raises(upscale_fx.ModeError, match="inference=True"):
            one.train()
    assert same(model.eval(), fast)
    assert upscale_fx.optimize(upscale_fx.trace(model)).train().training
    unpruned = upscale_fx.optimize(upscale_fx.trace(ready(Normed())), inference=True)
    with pytest.raises(upscale_fx.ModeError, match="inference=True"):
        unpruned.train()


def test_norms_without_running_statistics_are_never_looked_through():
    model = ready(Normed(p=0.0))
    model.norm = nn.BatchNorm1d(WIDTH, track_running_stats=False).double()
    prune_rows(model, "conv.lin")
    fast = upscale_fx.optimize(upscale_fx.compact(model), inference=True)
    assert same(model, fast, graphs=GRAPHS[:2])
    assert shape(fast, "head.lin_r.weight") == (OUT, WIDTH)


def test_a_dropout_that_stays_on_in_evaluation_is_never_looked_through():
    model = prune_rows(ready(Net(nn.Linear(IN, WIDTH), lambda h: F.dropout(h, 0.5, True))), "layer")
    fast = upscale_fx.optimize(upscale_fx.trace(model), inference=True)
    assert shape(fast, "head.weight") == (OUT, WIDTH)


@pytest.mark.parametrize("norm", [True, False])
def test_training_computes_the_same(norm):
    model = ready(Normed(norm, p=0.0, functional=0.0))
    prune_rows(model, "conv.lin")
    compiled = upscale_fx.compact(model)
    for _ in range(2):
        model.train(), compiled.train()
        for one in GRAPHS[:2]:
            torch.testing.assert_close(compiled(*one), model(*one), rtol=1e-10, atol=1e-10)
        model.eval(), compiled.eval()
        for one in GRAPHS:
            torch.testing.assert_close(compiled(*one), model(*one), rtol=1e-10, atol=1e-10)
    assert shape(compiled, "head.lin_r.weight") == (OUT, WIDTH if norm else 4)


def test_a_number_that_depends_on_the_mode_is_not_constant():
    class ByMode(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head = nn.Linear(IN, WIDTH), nn.Linear(WIDTH, OUT)

        def forward(self, x):
            return self.head(self.a(x).relu() * (1.0 if self.training else 0.3))

    model = prune_rows(ready(ByMode()), "a")
    compiled = upscale_fx.compact(model)
    for mode in (True, False):
        assert same(model.train(mode), compiled.train(mode))
    assert shape(compiled, "head.weight") == (OUT, WIDTH)
    fast = upscale_fx.optimize(compiled, inference=True)
    assert same(model.eval(), fast)
    assert shape(fast, "head.weight") == (OUT, 4)


def test_statistics_that_training_updates_are_no_constants():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(IN, WIDTH), nn.Linear(IN, WIDTH), nn.Linear(2 * WIDTH, OUT)
            self.register_buffer("mean", torch.randn(WIDTH))
            self.register_buffer("var", torch.ones(WIDTH))

        def forward(self, x):
            normed = F.batch_norm(self.a(x), self.mean, self.var, training=self.training)
            return self.head(torch.cat([normed, self.b(x) + self.mean], dim=1))

    model = prune_rows(ready(Functional()), "b")
    compiled = upscale_fx.compact(model, example_inputs=(GRAPHS[0][0],))
    assert shape(compiled, "head.weight") == (OUT, 2 * WIDTH)
    assert shape(upscale_fx.optimize(compiled, inference=True), "head.weight") == (OUT, WIDTH + 4)
    model.train()(GRAPHS[0][0]), compiled.train()(GRAPHS[0][0])
    assert same(model.eval(), compiled.eval())


# Layers that must not be changed, or are changed with care -----------------------------------------------------------


def test_a_layer_without_bias_gets_one():
    model = prune_rows(ready(Net(nn.Linear(IN, WIDTH), torch.sigmoid, nn.Linear(WIDTH, OUT, bias=False))), "layer")
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert set(compiled.state_dict()) == {"layer.weight", "layer.bias", "head.weight", "head.bias_folded"}
    assert compiled.get_parameter("head.bias_folded").requires_grad
    model.head.requires_grad_(False)
    assert not upscale_fx.compact(model).get_parameter("head.bias_folded").requires_grad


def test_a_layer_called_with_names():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(IN, WIDTH), nn.Linear(WIDTH, OUT)

        def forward(self, x):
            return F.linear(input=self.a(x).sigmoid(), weight=self.b.weight)

    model = prune_rows(ready(Named()), "a")
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, "b.weight") == (OUT, 4)


class Products(nn.Module):
    """Weights ``[in, out]``: a matrix product without a bias, and one with."""

    def __init__(self, with_bias):
        super().__init__()
        self.a, self.weight = nn.Linear(IN, WIDTH), nn.Parameter(torch.randn(WIDTH, OUT))
        self.bias = nn.Parameter(torch.randn(OUT)) if with_bias else None

    def forward(self, x):
        h = self.a(x).sigmoid()
        return torch.matmul(h, self.weight) if self.bias is None else torch.addmm(self.bias, h, self.weight)


@pytest.mark.parametrize("with_bias", [True, False])
def test_matrix_products(with_bias):
    model = prune_rows(ready(Products(with_bias)), "a")
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, "weight") == (4, OUT)
    added = set(compiled.state_dict()) - {"a.weight", "a.bias", "weight", "bias"}
    assert added == (set() if with_bias else {"bias_folded"})


class Shared(nn.Module):
    """Readers that share a weight or a bias, or are called twice."""

    def __init__(self, kind):
        super().__init__()
        self.a, self.b = nn.Linear(IN, WIDTH), nn.Linear(IN, WIDTH)
        self.first, self.second = nn.Linear(WIDTH, OUT), nn.Linear(WIDTH, OUT)
        self.kind = kind
        if kind == "weight":
            self.second.weight = self.first.weight
        if kind == "bias":
            self.second.bias = self.first.bias

    def forward(self, x):
        h, g = self.a(x).sigmoid(), self.b(x).sigmoid()
        if self.kind == "twice":
            return self.first(h) * self.first(g)
        if self.kind == "output":
            return self.first(h), self.first.bias
        return self.first(h) * self.second(g)


@pytest.mark.parametrize("kind", ["weight", "bias", "twice", "output"])
def test_shared_parameters_are_left_alone(kind):
    model = prune_rows(ready(Shared(kind)), "a")
    result = FoldConstants()(upscale_fx.trace(model))
    assert not result.modified
    compiled = upscale_fx.compact(model)
    x = GRAPHS[0][0]
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-10, atol=1e-10)


def test_parameters_that_share_memory_only_do_not_change_together():
    model = prune_rows(ready(Shared("")), "a")
    model.second.weight = nn.Parameter(model.first.weight.data)
    model.second.bias = nn.Parameter(model.first.bias.data)
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, "first.weight") == (OUT, 4)
    assert shape(compiled, "second.weight") == (OUT, WIDTH)


def test_residual_adds_keep_what_one_side_needs():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(IN, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.c, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, OUT)

        def forward(self, x):
            h = self.a(x).relu()
            h = h + self.b(h).relu()
            return self.head(h + self.c(h).sigmoid())

    model = ready(Residual())
    with torch.no_grad():
        model.a.weight[:5], model.b.weight[2:], model.c.weight[3:7] = 0, 0, 0
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, "head.weight") == (OUT, 6), "3 and 4 are constant in all three terms"


class Heads(nn.Module):
    """One weight reads two heads of four channels."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(IN, 8), nn.Linear(4, OUT)

    def forward(self, x):
        return self.head((self.a(x) - 0.5).relu().view(-1, 2, 4))


def test_one_weight_for_all_heads_takes_what_all_heads_agree_on():
    model = ready(Heads())
    with torch.no_grad():
        model.a.weight[[0, 1, 2, 4, 5]] = 0
        model.a.bias[[0, 1, 4, 5]] = torch.tensor(
            [0.7, 0.8, 0.7, 0.9], dtype=torch.float64
        )  # channels 0 and 1 are constant in both heads, but 1 is another number in each
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, "head.weight") == (OUT, 3)


def test_a_head_that_is_constant_is_read_where_the_other_is_not():
    """Also where the other happens to hold the same number in the first row."""
    model = ready(Heads())
    with torch.no_grad():
        model.a.weight[:4], model.a.bias[:4] = 0, -1  # constant 0 after the activation
        model.a.bias[4:] = 0
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, "head.weight") == (OUT, 4)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["weight", "bias", "above"])
def test_numbers_that_are_not_finite_do_not_spread(number, where):
    model = ready(Net(nn.Linear(IN, WIDTH)))
    with torch.no_grad():
        model.layer.weight[[1, 2, 5]] = 0
        model.layer.bias[[1, 2, 5]] = torch.tensor([0.5, -0.5, 1.0], dtype=torch.float64)
        target = {"weight": model.head.weight[1], "bias": model.head.bias, "above": model.layer.bias}[where]
        target[2] = number  # a constant 0 * inf, a bias, a constant that is not finite
    compiled = upscale_fx.compact(model)
    for one in GRAPHS:
        torch.testing.assert_close(compiled(*one), model(*one), rtol=1e-10, atol=1e-10, equal_nan=True)
    left = {"weight": 6, "bias": 8, "above": 6}
    assert shape(compiled, "head.weight") == (OUT, left[where])


def test_parameters_alone_are_not_multiplied_out():
    """What a model learns as the product of two parameters stays that."""

    class Query(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.a, self.b = nn.Parameter(torch.randn(1, WIDTH)), nn.Linear(WIDTH, OUT), nn.Linear(IN, OUT)

        def forward(self, x):
            return self.b(x) + self.a(self.query)

    assert not FoldConstants()(upscale_fx.trace(ready(Query()))).modified


# The pass and what it leaves behind ----------------------------------------------------------------------------------


def test_the_pass_is_idempotent_and_honest():
    model = prune_rows(ready(Net(GCNConv(IN, WIDTH), torch.sigmoid)), "layer.lin")
    traced = upscale_fx.trace(model)
    before = copy.deepcopy(traced.state_dict())
    first = FoldConstants()(traced)
    assert first.modified
    assert same(model, first.graph_module)
    assert all(torch.equal(value, before[key]) for key, value in traced.state_dict().items()), "never changes its input"
    again = FoldConstants()(first.graph_module)
    assert not again.modified
    assert again.graph_module is first.graph_module
    assert CompactChannels()(first.graph_module).modified
    untouched = upscale_fx.trace(ready(Net(GCNConv(IN, WIDTH))))
    assert FoldConstants()(untouched) == type(again)(untouched, False)


def test_a_compacted_model_is_compacted_once():
    model = prune_rows(ready(Net(SAGEConv(IN, WIDTH), torch.sigmoid)), "layer.lin_l", "layer.lin_r")
    compiled = upscale_fx.compact(model)
    again = upscale_fx.compact(compiled)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in compiled.state_dict().items()}
    assert same(model, again)
    pruned = upscale_fx.prune(compiled, 0.5)
    assert same(upscale_fx.mask(compiled, 0.5), pruned)


def test_a_folded_model_is_a_model_like_any_other():
    model = prune_rows(ready(Net(GATv2Conv(IN, 4, heads=2), torch.sigmoid)), "layer.lin_l")
    compiled = upscale_fx.compact(model)
    assert set(compiled.state_dict()) <= set(upscale_fx.trace(model).state_dict())
    assert same(model, copy.deepcopy(compiled))
    floating = copy.deepcopy(compiled).to(torch.float32)
    x, edges = GRAPHS[1]
    torch.testing.assert_close(floating(x.float(), edges), model(x, edges).float(), rtol=1e-4, atol=1e-4)
    compiled.train()(*GRAPHS[0]).square().sum().backward()
    assert all(parameter.grad is not None for parameter in compiled.parameters())


def test_constants_of_a_dense_model_are_its_parameters():
    flow = analyse(upscale_fx.trace(ready(Net(GCNConv(IN, WIDTH)))))
    found = constants(flow)
    assert found.keys() == flow.nonzero.keys()
    for node, mask in found.items():
        assert mask.all() if node.op == "get_attr" else not mask.any(), node


def test_sizes_are_recognised_after_they_are_shared():
    """A layer asks for the number of nodes of its own input; sharing says that it is the same number."""

    class Looped(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.conv = nn.Linear(IN, WIDTH), SAGEConv(WIDTH, OUT, aggr="max")

        def forward(self, x, edge_index):
            edge_index, _ = add_self_loops(edge_index, num_nodes=x.size(0))
            return self.conv(self.a(x).sigmoid(), edge_index)

    model = prune_rows(ready(Looped()), "a")
    compiled = upscale_fx.compact(model)
    assert same(model, compiled)
    assert shape(compiled, "conv.lin_l.weight") == shape(compiled, "conv.lin_r.weight") == (OUT, 4)
    assert FoldConstants()(ShareStructure()(upscale_fx.trace(model)).graph_module).modified


# Random programs -----------------------------------------------------------------------------------------------------

STEPS = (
    "h = self.{a}(h)",
    "h = self.{a}(h).relu()",
    "h = torch.sigmoid(h)",
    "h = F.elu(h) * self.scale",
    "h = h + self.{a}(k)",
    "h, k = k, h",
    "h = torch.cat([h, k], dim=-1)[:, 3:11]",
    "h = h.view(-1, 2, 4).flip(1).transpose(1, 2).flatten(1)",
    "h = self.conv_{a}(h, e)",
    "h = self.gat_{a}(h, e).sigmoid()",
    "h = scatter(h[e[0]], e[1], 0, h.size(0), 'mean') + k",
    "h = scatter(h[loops[0]], loops[1], 0, x.size(0), '{how}')",
    "h = self.norms[{place}](h)",
    "h = F.dropout(h, 0.3, self.training)",
    "h = torch.maximum(h, k - 0.5)",
    "h = h.view(-1, 4, 2).mean(-1, keepdim=True).expand(-1, -1, 2).flatten(1)",
    "h = h * k.view(-1, 2, 4).sum(-1, keepdim=True).repeat_interleave(4, dim=1)[:, :, 0]",
    "h = h @ self.square",
)


class Random(nn.Module):
    """A random program over values of width 8, in whose layers random rows, columns and biases are zero."""

    def __init__(self, number):
        super().__init__()
        draw = random.Random(number)
        torch.manual_seed(number)
        self.stem, self.head = nn.Linear(IN, WIDTH), nn.Linear(WIDTH, OUT, bias=draw.random() < 0.5)
        self.scale, self.square = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH, WIDTH))
        for name in "ab":
            setattr(self, name, nn.Linear(WIDTH, WIDTH, bias=draw.random() < 0.7))
            setattr(self, f"conv_{name}", draw.choice((GCNConv, SAGEConv))(WIDTH, WIDTH))
            setattr(self, f"gat_{name}", GATConv(WIDTH, 4, heads=2))
        self.norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in range(7))
        steps = draw.choices(STEPS, k=draw.randint(2, 7))
        self.steps = "\n".join(
            step.format(a=draw.choice("ab"), how=draw.choice(("mean", "max", "sum")), place=place)
            for place, step in enumerate(steps)
        )
        ready(self)
        with torch.no_grad():
            for name, value in self.named_parameters():
                if value.dim() == 2:
                    value[torch.rand(len(value)) < 0.6] = 0
                    value[:, torch.rand(value.shape[1]) < 0.1] = 0
                elif "norms" not in name and value.dim() == 1:
                    value[torch.rand(len(value)) < 0.2] = 0

    def forward(self, x, edge_index):
        h = self.stem(x).relu()
        loops, _ = add_self_loops(edge_index, num_nodes=x.size(0))
        names = {"self": self, "x": x, "h": h, "k": h, "e": edge_index, "loops": loops}
        exec(self.steps, globals(), names)
        return self.head(names["h"])


@pytest.mark.filterwarnings("ignore::upscale_fx.UpscaleWarning")
@pytest.mark.parametrize("number", range(60))
def test_random_programs(number):
    model = Random(number)
    compiled = upscale_fx.compact(model, example_inputs=GRAPHS[0])
    assert same(model, compiled), model.steps
    fast = upscale_fx.optimize(compiled, inference=True)
    assert same(model, fast), model.steps
    assert same(model, upscale_fx.optimize(upscale_fx.trace(model, GRAPHS[0]), inference=True)), model.steps
    if "dropout" not in model.steps:
        state = copy.deepcopy(model.state_dict())
        graphs = GRAPHS[:2]
        assert same(model.train(), compiled.train(), graphs=graphs), model.steps
        model.load_state_dict(state)
