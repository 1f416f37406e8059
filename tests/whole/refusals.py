"""What every refusal must hold: the type, the facts of its message, and a model that is left alone."""

import copy
import re
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import upscale_fx
from tests.comparison import hooks
from upscale_fx import (
    AmountError,
    CriterionError,
    EditedGraphError,
    EvaluationError,
    InputError,
    InternalError,
    MaskingManager,
    ModeError,
    NothingToPruneError,
    PartError,
    PassError,
    PatternError,
    PruningManager,
    ServerError,
    StateError,
    TargetError,
    TraceError,
    UnsupportedError,
    UpscaleError,
    VerificationError,
)
from upscale_fx.models import SAGE

BUILT_IN = {
    TraceError: RuntimeError,
    InputError: ValueError,
    AmountError: ValueError,
    PatternError: ValueError,
    CriterionError: ValueError,
    NothingToPruneError: ValueError,
    VerificationError: AssertionError,
    ModeError: RuntimeError,
    StateError: RuntimeError,
    PartError: RuntimeError,
    EditedGraphError: RuntimeError,
    PassError: RuntimeError,
    InternalError: RuntimeError,
    EvaluationError: ValueError,
    ServerError: RuntimeError,
    TargetError: ValueError,
    UnsupportedError: NotImplementedError,
}
DRAW = torch.Generator().manual_seed(0)
X, EDGES = torch.randn(9, 6, generator=DRAW), torch.randint(9, (2, 20), generator=DRAW)


def layered():
    """Layers in different modes and one of them frozen, so that it shows when something is not put back."""
    torch.manual_seed(0)
    model = SAGE(6, 16, 3, num_layers=2)
    model.convs[0].eval().requires_grad_(False)
    return model


@contextmanager
def refused(model, error, *facts):
    """Expect an error whose message holds all the facts (patterns), and that leaves model and random state alone."""
    values = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    frozen = [not parameter.requires_grad for parameter in model.parameters()]
    hooked = hooks(model)
    random = torch.get_rng_state()
    with pytest.raises(UpscaleError) as caught:
        yield
    assert caught.type is error
    assert issubclass(error, BUILT_IN[error])
    message = str(caught.value)
    assert [fact for fact in facts if not re.search(fact, message)] == [], message
    assert model.state_dict().keys() == values.keys()
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [not parameter.requires_grad for parameter in model.parameters()] == frozen
    assert hooks(model) == hooked
    assert torch.equal(torch.get_rng_state(), random)


class NoLayer(nn.Module):
    """Nothing in it contracts over channels."""

    def forward(self, x, edge_index):
        return x.relu() + x[edge_index[0]].sum(dim=0)


CALLS = {
    "trace": upscale_fx.trace,
    "mask": lambda model: upscale_fx.mask(model, 0.5),
    "compact": upscale_fx.compact,
    "optimize": upscale_fx.optimize,
    "prune": lambda model: upscale_fx.prune(model, 0.5),
    "groups": upscale_fx.groups,
    "MaskingManager": lambda model: MaskingManager(model).mask(0.5),
    "PruningManager": lambda model: PruningManager(model).compute([X, EDGES]).prune(),
}
