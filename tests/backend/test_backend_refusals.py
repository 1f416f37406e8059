"""What ``torch.compile(model, backend="upscale")`` refuses, and what it says."""

import pytest
import torch
import torch_geometric.nn as gnn
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

import upscale_fx
from tests.backend.dynamo import MODELS, SIZES, build, compile_, graph
from tests.comparison import assert_same
from upscale_fx.backend import upscale
from upscale_fx.models import JKNet

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def failure(call):
    """What a compilation fails with, as the user sees it."""
    with pytest.raises(BackendCompilerFailed) as caught, torch.no_grad():
        call()
    return str(caught.value)


def test_without_fullgraph_an_error_says_so():
    for make, where in ((MODELS["SimpleGCN"], "broken at loop.py"), (MODELS["SAGE"], "Pass fullgraph=True")):
        fast = torch.compile(build(make), backend="upscale", options={"amount": 0.5})
        message = failure(lambda fast=fast: fast(*graph(*SIZES[0])))
        assert "needs torch.compile(..., fullgraph=True)" in message
        assert where in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amuont": 0.5}, "unknown option 'amuont' of backend='upscale'; valid options: ['amount', 'criterion'"),
        ({"amount": 1}, "amount must be a number in [0, 1)"),
        ({"amount": 0.5, "criterion": "l7"}, "unknown criterion 'l7'"),
        ({"amount": 0.5, "ignore": "layers.*"}, "valid names: ['convs.0.lin_l', 'convs.0.lin_r', 'convs.1.lin_l'"),
        ({"amount": 0.01}, "nothing to prune"),
        ({"inner": "upscale"}, "names no other backend"),
    ],
    ids=str,
)
def test_bad_options_are_refused_with_what_is_valid(options, message):
    assert message in failure(lambda: compile_(build(), **options)(*graph(*SIZES[0])))


def test_a_mode_is_refused():
    fast = torch.compile(build(), backend="upscale", fullgraph=True, mode="max-autotune")
    assert "takes no mode" in failure(lambda: fast(*graph(*SIZES[0])))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo's own
def test_gradients_of_parameters_are_refused_and_those_of_inputs_exact():
    model, (x, edge_index) = build(), graph(*SIZES[0])
    with pytest.raises(BackendCompilerFailed, match=r"torch\.no_grad\(\) or torch\.inference_mode\(\); to train"):
        compile_(model, amount=0.5)(x, edge_index)
    model.requires_grad_(False)
    grown = []
    for module in (compile_(model, amount=0.5, inner="aot_eager"), upscale_fx.mask(model, 0.5)):
        module(x.requires_grad_(), edge_index).square().sum().backward()
        grown.append(x.grad)
        x.grad = None
    assert_same(*reversed(grown))


def test_batch_norm_in_training_is_refused():
    model = build(MODELS["GIN"]).train()
    assert "call model.eval() first" in failure(lambda: compile_(model, amount=0.5)(*graph(*SIZES[0])))


def test_a_compiled_model_is_refused():
    again = compile_(upscale_fx.compact(upscale_fx.mask(build(), 0.5)), amount=0.5)
    assert "upscale_fx.prune(compiled, amount)" in failure(lambda: again(*graph(*SIZES[0])))


def test_a_layer_that_caches_its_graph_is_refused():
    fast = compile_(build(lambda: gnn.GCNConv(12, 16, cached=True)), amount=0.5, inputs=True)
    with torch.no_grad():
        fast(*graph(*SIZES[0]))  # has no cache yet
    assert "cached=True" in failure(lambda: fast(*graph(*SIZES[0])))


def test_empty_graphs_are_refused():
    x, edge_index = graph(5, 9)
    assert "axis 1 of 'edge_index' is empty" in failure(lambda: compile_(build(), amount=0.5)(x, edge_index[:, :0]))


def test_what_cannot_be_traced_names_the_line():
    class Sorts(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 5)

        def forward(self, x, edge_index):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.second(self.first(x))

    message = failure(lambda: compile_(build(Sorts), amount=0.5)(*graph(*SIZES[0])))
    assert "torch.autocast within forward()" in message
    assert "test_backend_refusals.py:" in message


def test_a_model_for_one_size_is_refused():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.own, self.first, self.second = nn.Parameter(torch.randn(23, 12)), nn.Linear(12, 16), nn.Linear(16, 5)

        def forward(self, x, edge_index):
            return self.second(self.first(x + self.own).relu())

    message = failure(lambda: compile_(build(Positions), amount=0.5)(*graph(23, 70)))
    assert "fixed axis 0 of 'x' at 23" in message


def test_recurrent_layers_are_refused():
    with torch._dynamo.config.patch(allow_rnn=True):
        make = lambda: JKNet(12, 16, 5, num_layers=2, mode="lstm")  # noqa: E731
        message = failure(lambda: compile_(build(make), amount=0.5)(*graph(*SIZES[0])))
    assert "found torch.lstm, whose weights are one list without names (at jumping_knowledge.py:" in message


def test_autocast_is_refused():
    fast = compile_(build(), amount=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "model.bfloat16()" in failure(lambda: fast(*graph(*SIZES[0])))


def test_a_graph_module_of_ones_own_is_refused():
    with pytest.raises(upscale_fx.InputError, match=r"call upscale_fx\.prune"):
        upscale(torch.fx.symbolic_trace(nn.Linear(3, 3)), [torch.zeros(1, 3)])
