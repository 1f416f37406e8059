"""Batch norms go into the layers beside them, for inference alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GCNConv, GINConv, PNAConv, SAGEConv

import upscale_fx
from tests.comparison import assert_same, assert_same_outputs, stored
from tests.passes.folded import GRAPHS, IN, OUT, WIDTH, Form, Normed, calls, folded, graph, norms, ready, sent
from tests.selection import every, only
from tests.zoo import ZOO, make
from upscale_fx import ModeError
from upscale_fx.passes.fold_batch_norm import FoldBatchNorm
from upscale_fx.passes.remove_dropout import RemoveDropout

pytestmark = pytest.mark.usefixtures("seeded")


# Batch norms that fold -----------------------------------------------------------------------------------------------

#: How many batch norms stay: those after an activation and before another, or after logits and values of attention.
LEFT = {
    "residual-batch-norm": 0,
    "norm-batch-pyg": 0,
    "mlp-head-norm": 0,
    "mlp-head-pyg": 0,
    "gin-norm": 0,
    "more-gen": 0,
    "basic-GCN-last-batch_norm": 0,
    "basic-GraphSAGE-None-batch_norm": 0,
    "basic-GIN-max-batch_norm": 0,
    "basic-PNA-cat-batch_norm": 0,
    "basic-GATv2-lstm-batch_norm": 3,
    "pre-activation": 3,
}


@pytest.mark.parametrize("name", every(5, LEFT))
def test_batch_norms_of_the_zoo(name):
    model = make(name)
    assert len(norms(upscale_fx.trace(model))) >= max(LEFT[name], 1)
    compiled = folded(model)
    assert len(norms(compiled)) == LEFT[name]
    for nodes, edges in ((30, 110), (1, 0), (9, 5)):
        arguments = ZOO[name].inputs(nodes, edges)
        assert_same(model(**arguments), compiled(**arguments))


def perceptron(*widths):
    return nn.Sequential(nn.Linear(widths[0], widths[1]), nn.ReLU(), nn.Linear(*widths[1:]))


LAYERS = {
    "GCN": lambda: GCNConv(IN, WIDTH),
    "SAGE": lambda: SAGEConv(IN, WIDTH),
    "SAGE-max": lambda: SAGEConv(IN, WIDTH, aggr="max"),
    "SAGE-no-root": lambda: SAGEConv(IN, WIDTH, root_weight=False),
    "SAGE-no-bias": lambda: SAGEConv(IN, WIDTH, bias=False),
    "GIN": lambda: GINConv(perceptron(IN, WIDTH, WIDTH)),
    "PNA": lambda: PNAConv(IN, WIDTH, ["mean", "max"], ["identity"], deg=torch.tensor([1, 2, 3])),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_batch_norm_behind_a_layer(name):
    model = ready(Normed(LAYERS[name]()))
    compiled = folded(model)
    assert not norms(compiled)
    assert_same_outputs(model, compiled, GRAPHS)


FOLDED = {
    "sum": lambda m, x, e: m.norm(m.a(x) + m.b(x)),
    "difference": lambda m, x, e: m.norm(m.a(x) - m.b(x)),
    "difference of messages": lambda m, x, e: m.norm(sent(m.a(x), e) - m.b(x)),
    "mean over channels": lambda m, x, e: m.norm(torch.stack([m.a(x), m.b(x)], dim=1).mean(dim=1)),
    "gather": lambda m, x, e: m.norm(m.a(x)[e[0]]),
    "slice": lambda m, x, e: m.norm(torch.cat([m.a(x)[:, :3], m.b(x)[:, 3:]], dim=-1)),
    "halves": lambda m, x, e: m.norm(torch.cat([m.a(x).narrow(1, 0, 4), m.b(x).narrow(1, 4, 4)], dim=-1)),
    "rows": lambda m, x, e: m.norm(torch.cat([m.a(x), m.b(x)], dim=0)),
    "view": lambda m, x, e: m.norm(m.a(x).view(-1, 2, 4).flatten(1)),
    "weighted": lambda m, x, e: m.norm(0.5 * (m.a(x) / 3) * x[:, :1] + m.p),
    "parameter": lambda m, x, e: (
        m.norm(x @ m.w.t()[:IN] + m.p) if IN == WIDTH else m.norm(x[:, :WIDTH] @ m.w.t() + m.p)
    ),
    "size": lambda m, x, e: m.norm(h := m.a(x)) / h.size(0),
    "twice": lambda m, x, e: m.norm(m.a(x)) + m.norm(m.b(x)),
    "read by linear": lambda m, x, e: m.c(m.norm(m.a(x).relu())),
    "raw input": lambda m, x, e: m.c(m.norm(x[:, :WIDTH])),
    "read by two": lambda m, x, e: m.c(h := m.norm(m.a(x).relu())) + F.linear(h, m.w)[:, :OUT],
    "read by product": lambda m, x, e: m.norm(m.a(x).relu()) @ m.w,
    "one after another": lambda m, x, e: m.c(m.norm(m.norm(m.a(x)))),
    "before and after": lambda m, x, e: m.norm(F.linear(m.norm(m.a(x).relu()), m.w, m.p)),
}


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("biases", only([True], [True, False]))
def test_forms_that_fold(name, biases):
    model = ready(Form(FOLDED[name], biases=biases or name == "weighted"))
    compiled = folded(model)
    assert not norms(compiled)
    assert_same_outputs(model, compiled, GRAPHS)
    assert all(key in model.state_dict() or key.endswith("_folded") for key in stored(compiled))


def test_statistics_that_are_off():
    model = ready(Form(FOLDED["sum"]))
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([-2.0, 0, 1e-3, 1, 5, -0.1, 0, 40]))
        model.norm.running_var[0] = 0
    compiled = folded(model)
    assert not norms(compiled)
    assert_same_outputs(model, compiled, GRAPHS)


def test_without_scale_and_shift():
    model = ready(Form(FOLDED["sum"], norm=nn.BatchNorm1d(WIDTH, affine=False)))
    assert not norms(folded(model))
    assert_same_outputs(model, folded(model), GRAPHS)


# What a fold leaves as it was ----------------------------------------------------------------------------------------


def test_the_graph_given_is_not_touched():
    traced = upscale_fx.trace(ready(Normed(GCNConv(IN, WIDTH))))
    before = copy.deepcopy(traced.state_dict())
    result = FoldBatchNorm()(traced)
    assert result.modified
    assert norms(traced) == ["norm"]
    assert all(torch.equal(value, before[key]) for key, value in traced.state_dict().items())


def test_frozen_parameters_stay_frozen():
    model = ready(Form(lambda m, x, e: m.norm(m.a(x)) + m.norm(m.b(x))))
    model.a.weight.requires_grad_(False)
    model.a.bias = model.b.bias = None
    parameters = dict(folded(model).named_parameters())
    trains = {name: parameter.requires_grad for name, parameter in parameters.items()}
    assert trains == {"a.weight": False, "a.bias_folded": False, "b.weight": True, "b.bias_folded": True}


def test_the_result_is_for_eval_only():
    compiled = folded(ready(Normed(GCNConv(IN, WIDTH))).train())
    assert not compiled.training
    with pytest.raises(ModeError, match="inference=True"):
        compiled.train()


def test_single_precision():
    model = ready(Normed(GCNConv(IN, WIDTH))).float()
    compiled = folded(model)
    assert {value.dtype for value in compiled.state_dict().values()} == {torch.float32}
    assert_same_outputs(model, compiled, [graph(dtype=torch.float32)], tolerance=1e-5)


# Dropout -------------------------------------------------------------------------------------------------------------


class Drops(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin, self.alpha, self.plain = nn.Linear(IN, WIDTH), nn.AlphaDropout(0.4), nn.Dropout(0.9)

    def forward(self, x, edge_index):
        h = self.plain(self.alpha(self.lin(x)))
        h = F.alpha_dropout(F.dropout(h, 0.5, self.training), 0.3, training=self.training)
        return F.dropout(F.dropout(h, p=0.0), 0.7, training=False)


def dropouts(gm):
    return [node.name for node in gm.graph.nodes if "dropout" in str(node.target) or "by_mode" in node.name]


def test_dropout_goes_whatever_its_rate():
    model = ready(Drops())
    traced = upscale_fx.trace(model)
    assert len(dropouts(traced)) >= 6
    result = RemoveDropout()(traced)
    assert dropouts(result.graph_module) + calls(result.graph_module, nn.Module) == []
    assert_same_outputs(model, result.graph_module, GRAPHS)
    assert RemoveDropout()(result.graph_module).modified is False


def test_dropout_that_draws_in_eval_stays():
    class Draws(nn.Module):
        def forward(self, x, edge_index):
            return F.dropout(F.dropout(x, 0.5, self.training), 0.5)

    traced = upscale_fx.trace(Draws(), graph())
    assert dropouts(RemoveDropout()(traced).graph_module) == ["dropout_1"]
