"""Contexts in forward(): gradients stop where they stop in the model; what a graph cannot hold is refused by name."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils import _pytree as pytree

import upscale_fx
from tests.comparison import assert_same
from tests.selection import every
from tests.whole.forwards import FORWARDS, Layers, no_grad, own_contexts
from tests.whole.refusals import refused
from upscale_fx import TraceError
from upscale_fx.compacting.rewrite.origins import FOLDED, origin_of

EDGES = torch.randint(20, (2, 70))


def outputs_and_gradients(model):
    """What a call returns, and the gradients of the input and of all parameters; None where there is none."""
    torch.manual_seed(1)
    x = torch.randn(20, 8, dtype=torch.float64, requires_grad=True)
    model.zero_grad()
    outputs = model(x, EDGES)
    leaves = [leaf for leaf in pytree.tree_leaves(outputs) if leaf.requires_grad]
    weights = [torch.randn_like(leaf) for leaf in leaves]
    torch.autograd.backward(leaves, weights)
    flags = [leaf.requires_grad for leaf in pytree.tree_leaves(outputs)]
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return pytree.tree_map(torch.detach, outputs), flags, x.grad, gradients


def assert_gradients_of(expected, compiled):
    """Outputs, which of them take gradients, and all gradients are those of a plain model."""
    torch.manual_seed(0)
    outputs, flags, of_input, gradients = outputs_and_gradients(expected)
    found, found_flags, found_of_input, found_gradients = outputs_and_gradients(compiled)
    assert_same(outputs, found)
    assert flags == found_flags
    assert (of_input is None) == (found_of_input is None)
    if of_input is not None:
        assert_same(of_input, found_of_input)
    folded = tuple(name.rpartition(".")[0] for name in found_gradients if name.endswith(FOLDED))
    for name, gradient in found_gradients.items():
        if name.endswith(FOLDED):
            continue
        origin = origin_of(compiled, name)
        there = gradients[origin.name]
        assert (there is None) == (gradient is None), name
        # A folded attention vector is a parameter of its own, so that the weight it was made of moves without it. And
        # a masked column that only some calls read on has a gradient in the masked model from the others too.
        if gradient is not None and not (folded and name.startswith(folded)):
            places = torch.from_numpy(origin.places.reshape(-1))
            read = expected.get_parameter(origin.name).reshape(-1)[places] != 0
            assert_same(there.reshape(-1)[places] * read, gradient.reshape(-1) * read, where=name)


@pytest.mark.parametrize("forward", every(3, FORWARDS), ids=lambda f: f.__name__)
def test_gradients_stop_where_they_stop_in_the_model(forward):
    torch.manual_seed(0)
    model = Layers(forward).double().eval()
    assert_gradients_of(model, upscale_fx.trace(model))
    masked, pruned = upscale_fx.mask(model, 0.5), upscale_fx.prune(model, 0.5)
    assert_gradients_of(masked, pruned)
    assert_gradients_of(masked, copy.deepcopy(pruned))


@pytest.mark.slow
@pytest.mark.parametrize("forward", every(3, FORWARDS), ids=lambda f: f.__name__)
def test_gradients_stop_in_compacted_graphs_and_in_training(forward):
    torch.manual_seed(0)
    model = Layers(forward).double()
    masked = upscale_fx.mask(model, 0.5)
    compacted = upscale_fx.compact(masked)
    assert_gradients_of(masked, compacted)
    assert_gradients_of(masked.eval(), upscale_fx.optimize(compacted).eval())


def test_fine_tuning_leaves_layers_without_gradients_alone():
    pruned = upscale_fx.prune(Layers(no_grad).double(), 0.5)
    before = {name: value.clone() for name, value in pruned.named_parameters()}
    batch = torch.randn(20, 8, dtype=torch.float64), EDGES
    upscale_fx.finetune(pruned, [batch], lambda out, _: out.square().mean(), epochs=2, lr=0.1)
    moved = {name.split(".")[0] for name, value in pruned.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"b", "head"}


def autocast(m, x, e):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m.head(m.a(x, e))


@torch.autocast("cpu", dtype=torch.bfloat16)
def decorated_autocast(m, x, e):
    return m.head(m.a(x, e))


def cpu_autocast(m, x, e):
    h = m.a(x, e)
    with torch.amp.autocast(device_type="cpu", dtype=torch.bfloat16):
        return m.head(h).float()


def on_a_device(m, x, e):
    with torch.device("cpu"):
        return m.head(x + torch.ones(8, dtype=x.dtype))


def forked(m, x, e):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return m.head(F.dropout(m.a(x, e)))


def seeded(m, x, e):
    torch.manual_seed(0)
    return m.head(F.dropout(m.a(x, e)))


def changed_in_place(m, x, e):
    h = m.a(x, e)
    with torch.no_grad():
        h.clamp_(min=0)
    return m.head(h)


def written_in_place(m, x, e):
    h = m.a(x, e) * 2
    with torch.inference_mode():
        h[:, 0] = 0
    return m.head(h)


def frozen_in_forward(m, x, e):
    m.lin.weight.requires_grad_(False)
    return m.head(m.lin(x) + m.a(x, e))


def replaced_data(m, x, e):
    h = m.a(x, e)
    h.data = x
    return m.head(h)


REFUSED = {
    autocast: "enters torch.autocast, .* wrap the call of the compiled model",
    decorated_autocast: "enters torch.autocast, .* wrap the call of the compiled model",
    cpu_autocast: "enters torch.autocast, .* wrap the call of the compiled model",
    on_a_device: r"enters torch\.device\('cpu'\), .* pass device=",
    forked: r"calls torch\.random\.fork_rng",
    seeded: r"calls torch\.manual_seed",
    changed_in_place: r"outside of torch\.no_grad\(\) is changed in place",
    written_in_place: r"outside of torch\.no_grad\(\) is changed in place",
    frozen_in_forward: r"sets requires_grad of 'lin\.weight'",
    replaced_data: r"'\.data' of a tensor is replaced",
}


@pytest.mark.parametrize("forward", every(3, REFUSED), ids=lambda f: f.__name__)
def test_what_a_graph_cannot_hold_is_refused_by_name(forward):
    model = Layers(forward).double().eval()
    functions = torch.is_grad_enabled, torch.manual_seed, torch.autocast.__enter__, torch._C._set_grad_enabled
    with refused(model, TraceError, REFUSED[forward], r"(test_contexts|forwards)\.py:\d+"):
        upscale_fx.trace(model)
    assert functions == (torch.is_grad_enabled, torch.manual_seed, torch.autocast.__enter__, torch._C._set_grad_enabled)


def autocast_off(m, x, e):
    with torch.autocast("cpu", enabled=False):
        return m.head(m.a(x, e).relu())


def test_autocast_that_is_off_is_no_context():
    model = Layers(autocast_off).double().eval()
    assert_gradients_of(upscale_fx.mask(model, 0.5), upscale_fx.prune(model, 0.5))


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_context_around_the_call_of_prune_is_none_of_the_models(around):
    model = Layers(own_contexts).double().eval()
    with around():
        pruned = upscale_fx.prune(model, 0.5)
    assert_gradients_of(upscale_fx.mask(model, 0.5), pruned)
