"""Bugs of upscale_fx leave public calls as an InternalError that names the place; errors of users' functions stay."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

import upscale_fx
from upscale_fx import InternalError, UpscaleError
from upscale_fx.rules import REGISTRY


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = GCNConv(6, 8), GCNConv(8, 3)

    def forward(self, x, edge_index):
        return self.b(self.a(x, edge_index).cosh(), edge_index)


EXAMPLE = torch.randn(9, 6), torch.randint(9, (2, 20))


@pytest.fixture
def failing_rule():
    """Let a rule of ``cosh``, as if of this package, raise an error."""

    def fail_with(error):
        space = {"__name__": "upscale_fx.channels.rules.pointwise", "error": error}
        exec("def rule(op): raise error", space)
        REGISTRY["cosh"] = space["rule"]

    yield fail_with
    del REGISTRY["cosh"]


BUGS = [KeyError("h"), IndexError("2"), StopIteration(), AttributeError("no"), AssertionError("left over")]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: type(bug).__name__)
@pytest.mark.parametrize("call", [lambda m: upscale_fx.mask(m, 0.5), upscale_fx.compact, upscale_fx.groups])
def test_a_bug_is_named_with_its_node_line_and_the_way_out(failing_rule, bug, call):
    failing_rule(bug)
    with pytest.raises(InternalError) as caught:
        call(Net().eval())
    message = str(caught.value)
    for part in (type(bug).__name__, "cosh", "test_internal.py:", "bug of upscale_fx", "upscale_fx.register(cosh)"):
        assert part in message
    assert caught.value.__cause__ is bug


def score(weight, name):
    return {}["missing"]


def evaluate(model):
    assert False, "the user's own"  # noqa: B011, PT015


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"amount": 0.5, "criterion": score}, KeyError),
        ({"evaluate": evaluate, "max_drop": 0.1}, AssertionError),
        ({"amount": 0.5, "callback": lambda *args: args[9]}, IndexError),
        ({"amount": 0.5, "calibration": [EXAMPLE], "transform": lambda batch: batch.missing}, AttributeError),
        ({"amount": 0.5, "no_such_option": 1}, TypeError),
    ],
)
def test_errors_of_a_users_functions_reach_the_user_as_they_are(options, error):
    with pytest.raises(error) as caught:
        upscale_fx.prune(Net().eval(), **options)
    assert not isinstance(caught.value, UpscaleError)
