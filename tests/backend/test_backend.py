"""``torch.compile(model, backend="upscale")``: exactly the masked model, on every size, and never an old answer."""

import shutil

import pytest
import torch
import torch_geometric.nn as gnn
from torch import nn
from torch.nn import functional as F

import upscale_fx
from tests.backend.dynamo import MODELS, SIZES, build, compile_, family, graph
from tests.comparison import assert_same, parameters
from tests.selection import every, only
from upscale_fx import passes
from upscale_fx.backend import upscale
from upscale_fx.models import SAGE

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


class Spy:
    """The backend, and every graph it made."""

    def __init__(self):
        self.made = []

    def __call__(self, gm, example_inputs, **options):
        self.made.append(upscale(gm, example_inputs, **options))
        return self.made[-1]

    @property
    def compiled(self):
        return self.made[-1].compiled


@pytest.mark.parametrize("name", every(5, MODELS))
def test_it_is_the_masked_model_at_every_size_with_one_graph(name):
    model, spy = build(MODELS[name]), Spy()
    masked, fast = upscale_fx.mask(model, 0.5), compile_(model, spy, amount=0.5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for size in SIZES:
            assert_same(masked(*graph(*size)), fast(*graph(*size)))
    assert len(spy.made) == 1
    assert parameters(spy.compiled) < 0.75 * parameters(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "the model is untouched"


def test_it_is_as_small_as_what_prune_makes():
    model, spy = build(), Spy()
    with torch.no_grad():
        compile_(model, spy, amount=0.5)(*graph(*SIZES[0]))
    assert parameters(spy.compiled) == parameters(upscale_fx.prune(model, 0.5))


@pytest.mark.parametrize(
    "options",
    [
        {"amount": 0.5, "constrained": True},
        {"amount": 0.25, "inputs": True, "scope": "global", "criterion": "l1"},
        {"amount": {"convs.1": 0.75}, "round_to": 3},
        {"amount": 0.5, "ignore": "convs.1.lin_r"},
    ],
    ids="-".join,
)
def test_options_are_those_of_prune(options):
    model = build()
    with torch.no_grad():
        assert_same(upscale_fx.mask(model, **options)(*graph(*SIZES[0])), compile_(model, **options)(*graph(*SIZES[0])))


def test_a_callback_sees_every_pass_and_so_the_report():
    seen = []
    with torch.no_grad():
        compile_(build(), amount=0.5, callback=lambda *step: seen.append(step))(*graph(*SIZES[0]))
    assert any(isinstance(one, passes.CompactChannels) for one, _, _ in seen)
    report = upscale_fx.report(seen[-1][2])
    assert report.after.parameters < report.before.parameters == parameters(build())


def test_without_amount_it_only_optimises():
    model, spy = build(), Spy()
    with torch.no_grad():
        assert_same(model(*graph(*SIZES[0])), compile_(model, spy)(*graph(*SIZES[0])))
    assert parameters(spy.compiled) == parameters(model)


@pytest.mark.slow
@pytest.mark.parametrize("inner", only(["aot_eager"], ["aot_eager", *(["inductor"] if shutil.which("g++") else [])]))
def test_the_rest_goes_to_another_backend(inner):
    model = build()
    fast, masked = compile_(model, amount=0.5, inner=inner), upscale_fx.mask(model, 0.5)
    with torch.inference_mode():
        for size in SIZES:
            assert_same(masked(*graph(*size)), fast(*graph(*size)))


@pytest.mark.parametrize(
    ("dynamic", "first"),
    only([(None, (30, 30))], [(None, (23, 70)), (None, (30, 30)), (True, (12, 16))]),
    ids=["usual", "as many nodes as edges", "as many nodes as channels"],
)
def test_sizes_are_dynamic_from_the_first_call_on(dynamic, first):
    """Also those that Dynamo would make constants of; the tensors given stay unmarked."""
    model, spy = build(), Spy()
    fast, masked = compile_(model, spy, dynamic, amount=0.5), upscale_fx.mask(model, 0.5)
    with torch.no_grad():
        for size in (first, *SIZES):
            inputs = graph(*size)
            assert_same(masked(*inputs), fast(*inputs))
            assert not any(name for tensor in inputs for name in vars(tensor))
    assert len(spy.made) == 1


@pytest.mark.slow
def test_a_single_node_has_a_graph_of_its_own():
    model = build(MODELS["SimpleGCN"])
    fast, masked = compile_(model, amount=0.5), upscale_fx.mask(model, 0.5)
    with torch.no_grad():
        for size in ((23, 70), (1, 1), (2, 1)):
            assert_same(masked(*graph(*size)), fast(*graph(*size)))


def changed_in_place(model):
    with torch.no_grad():
        model.convs[1].lin_l.weight.mul_(-2).add_(1)


def changed_columns(model):
    weight = model.convs[1].lin_l.weight.data
    weight[:, [0, 1]] = weight[:, [1, 0]]


def changed_by_numpy(model):
    model.convs[1].lin_r.weight.data.numpy()[:, :4] *= 9


def replaced(model):
    model.convs[1].lin_l.weight = nn.Parameter(torch.randn(5, 16, dtype=torch.float64))


def trained(model):
    model(*graph(*SIZES[1])).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def loaded(model):
    model.load_state_dict(family(SAGE)().state_dict())


CHANGES = (changed_in_place, changed_columns, changed_by_numpy, replaced, trained, loaded)


@pytest.mark.slow
def test_a_changed_model_is_pruned_anew():
    model, spy = build(), Spy()
    fast, inputs = compile_(model, spy, amount=0.5), graph(*SIZES[0])
    with torch.no_grad():
        old = fast(*inputs)
    for change in CHANGES:
        change(model)
        with torch.no_grad():
            found = fast(*inputs)
            assert_same(upscale_fx.mask(model, 0.5)(*inputs), found)
        assert not torch.allclose(found, old), change
        old = found
    assert len(spy.made) == 1, "Dynamo did not notice"


def test_buffers_and_numbers_count_as_parameters_do():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = gnn.SAGEConv(12, 16), nn.BatchNorm1d(16), nn.Linear(16, 5)
            self.slope = 0.1

        def forward(self, x, edge_index):
            return self.head(F.leaky_relu(self.norm(self.conv(x, edge_index)), self.slope))

    model, spy = build(Scaled), Spy()
    fast, inputs = compile_(model, spy, amount=0.5), graph(*SIZES[0])
    with torch.no_grad():
        fast(*inputs)
        for change in (lambda: model.norm.running_mean.fill_(2), lambda: setattr(model, "slope", 0.7)):
            change()
            assert_same(upscale_fx.mask(model, 0.5)(*inputs), fast(*inputs))


def test_an_unchanged_model_is_not_pruned_anew():
    model, spy = build(), Spy()
    fast = compile_(model, spy, amount=0.5)
    with torch.no_grad():
        fast(*graph(*SIZES[0]))
        compiled = spy.compiled
        model.convs[0].lin_l.weight = nn.Parameter(model.convs[0].lin_l.weight.clone())
        fast(*graph(*SIZES[1]))
    assert spy.compiled is compiled


def test_dropout_in_training_draws():
    fast = compile_(build().train(), amount=0.5)
    with torch.no_grad():
        assert not torch.equal(fast(*graph(*SIZES[0])), fast(*graph(*SIZES[0])))


def test_arguments_need_not_be_contiguous():
    model = build()
    fast, masked, (x, edge_index) = compile_(model, amount=0.5), upscale_fx.mask(model, 0.5), graph(46, 140)
    with torch.no_grad():
        for step in (2, 1, 3):
            inputs = x[::step], edge_index[:, ::step] // step
            assert_same(masked(*inputs), fast(*inputs))
