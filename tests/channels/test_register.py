"""Rules for operations of one's own: custom operators, Python functions, module types."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

import own_rule
import upscale_fx
from upscale_fx.channels.relations import Movement, Pointwise
from upscale_fx.channels.rules import registry
from upscale_fx.rules import REGISTRY


@pytest.fixture(autouse=True)
def _registry_as_it_was():
    known = dict(REGISTRY), list(registry.OPAQUE_FUNCTIONS), list(registry.OPAQUE_MODULES)
    yield
    for now, before in zip((registry.OPAQUE_FUNCTIONS, registry.OPAQUE_MODULES), known[1:], strict=True):
        now[:] = before
    REGISTRY.clear()
    REGISTRY.update(known[0])


def soften(x, limit):
    return limit * torch.tanh(x / limit)


class Softening(nn.Module):
    def forward(self, x):
        return torch.tanh(x)


class Model(nn.Module):
    def __init__(self, between):
        super().__init__()
        self.first, self.second, self.between = GCNConv(8, 16), GCNConv(16, 4), between

    def forward(self, x, edge_index):
        return self.second(self.between(self.first(x, edge_index)), edge_index)


class Function(nn.Module):
    def forward(self, x):
        return soften(x, 2.0)


class Operator(nn.Module):
    def forward(self, x):
        return own_rule.soft_clip(x, 2.0)


def graph():
    return torch.randn(9, 8, dtype=torch.float64), torch.randint(9, (2, 30))


def targets(compiled):
    return [node.target for node in compiled.graph.nodes]


@pytest.mark.parametrize(
    ("operation", "between"), [(soften, Function()), (Softening, Softening()), (own_rule.soft_clip, Operator())]
)
def test_with_a_rule_channels_are_pruned_and_the_operation_stays_one_node(operation, between):
    model = Model(between).double()
    upscale_fx.register(operation)(upscale_fx.rules.per_channel)
    compiled = upscale_fx.prune(model, 0.5)
    upscale_fx.verify(upscale_fx.mask(model, 0.5), compiled, graph())
    assert compiled.get_parameter("first.lin.weight").shape == (8, 8)
    assert upscale_fx.report(compiled).barriers == []
    known = {soften: soften, Softening: "between", own_rule.soft_clip: torch.ops.own_rule.soft_clip.default}
    assert known[operation] in targets(compiled)


def test_without_a_rule_an_operator_is_a_barrier_and_the_report_says_how_to_add_one():
    compiled = upscale_fx.prune(Model(Operator()).double(), 0.5)
    assert compiled.get_parameter("first.lin.weight").shape == (16, 8)
    (barrier,) = upscale_fx.report(compiled).barriers
    assert "soft_clip" in barrier
    assert "test_register.py" in barrier
    assert "upscale_fx.register" in barrier


def test_a_rule_may_return_any_relation_and_none_means_not_covered():
    asked = []

    @upscale_fx.register(soften)
    def rule(op):
        asked.append((op.name, op.argument(1), type(upscale_fx.rules.per_channel(op))))

    model = Model(Function()).double()
    compiled = upscale_fx.prune(model, 0.5)
    upscale_fx.verify(upscale_fx.mask(model, 0.5), compiled, graph())
    assert set(asked) == {("soften", 2.0, Pointwise)}
    assert "not covered by its rule" in upscale_fx.report(compiled).barriers[0]


def test_a_movement_of_ones_own():
    @upscale_fx.register(torch.channel_shuffle)
    def shuffle(op):
        indices = op.follow(op.tensors)
        return None if indices is None else Movement((upscale_fx.rules.Flow(op.tensors[0], indices[0]),), "pick")

    class Shuffle(nn.Module):
        def forward(self, x):
            return torch.channel_shuffle(x[:, :, None], 4)[:, :, 0]

    model = Model(Shuffle()).double()
    compiled = upscale_fx.prune(model, 0.5)
    upscale_fx.verify(upscale_fx.mask(model, 0.5), compiled, graph())
    assert compiled.get_parameter("first.lin.weight").shape == (8, 8)


@pytest.mark.parametrize("operation", [3, "nope", None])
def test_what_is_no_operation_cannot_be_registered(operation):
    with pytest.raises(upscale_fx.InputError, match="is no operation"):
        upscale_fx.register(operation)


def test_nothing_cannot_be_registered():
    with pytest.raises(upscale_fx.InputError, match="takes the operations"):
        upscale_fx.register()


@pytest.mark.parametrize(
    ("outcome", "message"), [(KeyError("bug"), "failed: KeyError: 'bug'"), ("foo", "returned 'foo'")]
)
def test_a_rule_that_fails_is_named_with_its_place(outcome, message):
    @upscale_fx.register(soften)
    def rule(op):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with pytest.raises(upscale_fx.UpscaleError, match=f"rule of soften at node soften .*test_register.*{message}"):
        upscale_fx.prune(Model(Function()).double(), 0.5)


def test_the_example_prints_that_the_rule_pays(capsys):
    own_rule.main()
    lines = capsys.readouterr().out.splitlines()
    before, without, with_rule = (
        int(next(word for word in line.replace(",", "").split() if word.isdigit())) for line in lines
    )
    assert with_rule < without < before
