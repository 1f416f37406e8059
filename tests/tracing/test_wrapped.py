"""Parts that are wrapped, compiled, scripted, checkpointed or hooked: traced through, a barrier, or refused by name."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as torch_prune
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from torch_geometric.nn import SAGEConv

import upscale_fx
from tests.comparison import assert_same_outputs, parameters
from tests.selection import every
from upscale_fx import InputError, TraceError

pytestmark = [
    pytest.mark.usefixtures("double_precision", "seeded"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),  # checkpoints without gradients
    pytest.mark.filterwarnings("ignore::upscale_fx.UpscaleWarning"),  # weights that serve several channels
]


class Net(nn.Module):
    """Two layers and a head; ``body`` may call them in another way."""

    def __init__(self, head=None, conv=None, body=None):
        super().__init__()
        self.a, self.b = SAGEConv(6, 12), SAGEConv(12, 12) if conv is None else conv
        self.head, self.body = nn.Linear(12, 3) if head is None else head, body

    def forward(self, x, edge_index, scale=None):
        if self.body is not None:
            return self.body(self, x, edge_index)
        return self.head(self.b(self.a(x, edge_index).relu(), edge_index).relu())


def example(nodes=12, edges=30, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(nodes, 6, generator=draw), torch.randint(nodes, (2, edges), generator=draw)


def assert_exact(model, smaller=True):
    """Trace, compact and prune compute what the model and its mask compute."""
    model.eval()
    calls = [example(12, 30, 1), example(40, 90, 2)]
    masked = upscale_fx.mask(model, 0.5, example_inputs=example())
    compact = upscale_fx.compact(masked, example_inputs=example())
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        assert_same_outputs(model, upscale_fx.trace(model, example()), calls)
        assert_same_outputs(masked, compact, calls)
        assert_same_outputs(masked, upscale_fx.prune(model, 0.5, example_inputs=example()), calls)
    assert parameters(compact) < (0.8 if smaller else 1.0) * parameters(model)
    return compact


def mlp():
    return nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))


@torch.jit.script
def scripted(x):
    return x * torch.sigmoid(1.702 * x)


@torch.jit.script
def scripted_pair(x, factor: float):
    return x * factor, x + 1.0


class Gate(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


jit_traced = torch.jit.trace(torch.tanh, torch.randn(3, 12))


def compiled(module):
    return torch.compile(module, backend="eager")


def compiled_call(module):
    module.compile(backend="eager")
    return module


def compiled_forward():
    model = Net()
    model.forward = torch.compile(model.forward, backend="eager")
    return model


gelu = torch.compile(torch.nn.functional.gelu, backend="eager")

TRANSPARENT = {
    "torch.compile of a head": lambda: Net(compiled(mlp())),
    "torch.compile of a convolution": lambda: Net(conv=compiled(SAGEConv(12, 12))),
    "Module.compile of the whole": lambda: compiled_call(Net()),
    "Module.compile of a part": lambda: Net(compiled_call(mlp())),
    "torch.compile of forward": compiled_forward,
    "torch.compile of a function": lambda: Net(body=lambda m, x, e: m.head(gelu(m.b(m.a(x, e), e)))),
    "torch.compiler.disable": lambda: Net(body=lambda m, x, e: m.head(torch.compiler.disable(m.b)(m.a(x, e), e))),
    "torch.jit.script of a function": lambda: Net(body=lambda m, x, e: m.head(scripted(m.b(m.a(x, e), e)))),
    "a scripted function with a tuple": lambda: Net(
        body=lambda m, x, e: m.head(torch.add(*scripted_pair(m.b(m.a(x, e), e), 2.0)))
    ),
    "torch.jit.trace of a function": lambda: Net(body=lambda m, x, e: m.head(jit_traced(m.b(m.a(x, e), e)))),
    "DataParallel of a part": lambda: Net(nn.DataParallel(mlp())),
    "AveragedModel": lambda: AveragedModel(Net()),
    "AveragedModel with buffers": lambda: AveragedModel(
        Net(nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 3))), use_buffers=True
    ),
    "checkpoint": lambda: Net(
        body=lambda m, x, e: m.head(checkpoint(m.b, checkpoint(m.a, x, e, use_reentrant=False), e, use_reentrant=False))
    ),
    "checkpoint, reentrant": lambda: Net(
        body=lambda m, x, e: m.head(checkpoint(m.b, m.a(x, e).relu(), e, use_reentrant=True))
    ),
    "checkpoint by its module": lambda: Net(
        body=lambda m, x, e: torch.utils.checkpoint.checkpoint(
            lambda h: m.head(m.b(h, e)), m.a(x, e), use_reentrant=False, preserve_rng_state=False
        )
    ),
    "checkpoint_sequential": lambda: Net(
        mlp(), body=lambda m, x, e: checkpoint_sequential(m.head, 2, m.b(m.a(x, e), e), use_reentrant=False)
    ),
    "torch.fx of a part": lambda: Net(torch.fx.symbolic_trace(mlp())),
    "torch.func.functional_call": lambda: Net(
        body=lambda m, x, e: torch.func.functional_call(m.head, dict(m.head.named_parameters()), (m.b(m.a(x, e), e),))
    ),
}  # fmt: skip


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("name", every(3, TRANSPARENT))
def test_wrapped_parts_are_traced_through(name):
    assert_exact(TRANSPARENT[name]())


SCRIPTED = {
    "scripted head": lambda: Net(torch.jit.script(mlp())),
    "traced head": lambda: Net(torch.jit.trace(mlp(), torch.randn(3, 12))),
    "frozen head": lambda: Net(torch.jit.freeze(torch.jit.script(mlp().eval()))),
    "scripted activation": lambda: Net(nn.Sequential(torch.jit.script(Gate()), nn.Linear(12, 3))),
    "scripted layer with dropout": lambda: Net(
        nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(12, 12), nn.Dropout())), nn.Linear(12, 3))
    ),
}


@pytest.mark.parametrize("name", every(3, SCRIPTED))
def test_a_scripted_part_is_a_barrier_that_the_report_names(name):
    compact = assert_exact(SCRIPTED[name](), smaller=False)
    assert "barrier: head" in str(upscale_fx.report(compact))
    assert_same_outputs(compact, copy.deepcopy(compact), [example()])


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (lambda: nn.DataParallel(Net()), InputError, r"DataParallel\(model\): pass model\.module"),
        (lambda: compiled(Net()), InputError, r"OptimizedModule\(model\): pass model\._orig_mod"),
        (lambda: torch.jit.script(Net(mlp()).head), InputError, "TorchScript module cannot be traced"),
        (
            lambda: Net(torch.jit.script(mlp()), body=lambda m, x, e: m.head.forward(m.a(x, e))),
            TraceError, "the method 'forward' of a TorchScript module",
        ),
        (
            lambda: Net(body=lambda m, x, e: m.head(torch.vmap(torch.sin)(m.a(x, e)))),
            TraceError, r"torch\.vmap is opaque",
        ),
        (
            lambda: Net(body=lambda m, x, e: torch.func.grad(lambda y: m.head(m.a(y, e)).sum())(x)),
            TraceError, r"takes gradients \(torch\.func\.grad",
        ),
    ],
)  # fmt: skip
def test_what_stays_refused_says_what_to_pass(model, error, message):
    with pytest.raises(error, match=message):
        upscale_fx.trace(model().eval(), example())


# Hooks ---------------------------------------------------------------------------------------------------------------


def hooked(build=Net, at="", method="register_forward_hook", **options):
    """Take a hook, and return what builds a model with it."""

    def builder(hook):
        def make():
            model = build()
            getattr(model.get_submodule(at), method)(hook, **options)
            return model

        return make

    return builder


def with_norm():
    return Net(nn.Sequential(nn.BatchNorm1d(12), nn.Dropout(), nn.Linear(12, 3)))


def with_cell():
    return Net(body=lambda m, x, e: m.b(m.head(m.a(x, e)), e), head=nn.GRUCell(12, 12))


BEFORE = {"method": "register_forward_pre_hook"}
HOOKS = {
    "positional arguments of the model": hooked(**BEFORE)(lambda m, args: (args[0] * 0.5, *args[1:])),
    "positional and keyword arguments": hooked(**BEFORE, with_kwargs=True)(
        lambda m, args, kwargs: ((args[0] * 0.5, *args[1:]), kwargs)
    ),
    "arguments of a layer": hooked(at="b", **BEFORE)(lambda m, args: (args[0] * 0.5, *args[1:])),
    "arguments of a linear layer": hooked(at="head", **BEFORE)(lambda m, args: (args[0].tanh() + 1,)),
    "the output of the model": hooked()(lambda m, args, out: out * args[0].mean()),
    "the output of the model with keywords": hooked(with_kwargs=True)(lambda m, args, kw, out: out + args[0].mean()),
    "the output of a layer with keywords": hooked(at="b", with_kwargs=True)(lambda m, args, kw, out: out * 2 + 1),
    "always called": hooked(at="b", always_call=True)(lambda m, args, out: out + 1),
    "before a batch norm": hooked(with_norm, at="head.0", **BEFORE)(lambda m, args: (args[0] + 2,)),
    "after a batch norm": hooked(with_norm, at="head.0")(lambda m, args, out: out.exp()),
    "after dropout": hooked(with_norm, at="head.1")(lambda m, args, out: out + 1),
    "after a recurrent cell": hooked(with_cell, at="head")(lambda m, args, out: out + args[0]),
    "clamped, which small graphs do not show": hooked(at="b")(lambda m, args, out: out.clamp(max=3.0)),
    "in place": hooked(at="b")(lambda m, args, out: out.mul_(2)),
}


@pytest.mark.parametrize("name", every(3, HOOKS))
def test_hooks_that_change_values_are_traced(name):
    model = HOOKS[name]()
    with torch.no_grad():  # channels that are zero before the hook, and need not be after it
        model.a.lin_l.weight[:4] = model.a.lin_r.weight[:4] = 0
        model.a.lin_l.bias[:4] = 0
    assert_exact(model, smaller=False)
    far = [(x * 50, e) for x, e in (example(12, 30, 3),)]
    with torch.no_grad():
        assert_same_outputs(model, upscale_fx.compact(model, example_inputs=example()), far)


def test_hooks_that_observe_are_not_part_of_the_graph_and_stay_on_the_model():
    seen = []
    model = Net().eval()
    model.b.register_forward_hook(lambda m, args, out: seen.append(out.detach().numpy()))
    model.b.register_forward_pre_hook(lambda m, args: seen.append(float(args[0].detach().sum())))
    model.head.register_forward_hook(lambda m, args, out: out * 2)
    traced = upscale_fx.trace(model, example())
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in (model.b, model.head)] == [2, 1]
    seen.clear()
    expected = model(*example())
    assert len(seen) == 2
    torch.testing.assert_close(traced(*example()), expected)
    assert len(seen) == 2


# Parametrisations ----------------------------------------------------------------------------------------------------


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).transpose(-1, -2)


def parametrised(register, width=3):
    model = Net(nn.Linear(12, width))
    register(model)
    return model


def old_style(function):
    return lambda m: setattr(m, "head", function(m.head))


PARAMETRISED = {
    "weight_norm": lambda m: parametrizations.weight_norm(m.head),
    "weight_norm of a convolution's layer": lambda m: parametrizations.weight_norm(m.b.lin_l),
    "spectral_norm": lambda m: parametrizations.spectral_norm(m.head),
    "weight_norm by a hook": old_style(nn.utils.weight_norm),
    "spectral_norm by a hook": old_style(nn.utils.spectral_norm),
    "orthogonal": lambda m: parametrizations.orthogonal(m.b.lin_r),
    "of a user's own": lambda m: parametrize.register_parametrization(m.b.lin_r, "weight", Symmetric()),
    "torch.nn.utils.prune": lambda m: torch_prune.l1_unstructured(m.head, "weight", 0.3),
}


@pytest.mark.parametrize("name", every(3, PARAMETRISED))
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_parametrisations_are_part_of_the_model(name):
    assert_exact(parametrised(PARAMETRISED[name]), smaller=False)
