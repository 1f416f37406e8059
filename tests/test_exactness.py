"""Every model of the zoo, masked and compacted: the smaller graph computes what the masked model computes.

Equal means: no output differs by more than 1e-10 of the largest value, in float64, on graphs it was not traced on.
"""

import copy
import os
import pickle
import subprocess
import sys
from functools import cached_property

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils import _pytree as pytree

import upscale_fx
from tests import zoo
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.compiled.module import unfused
from upscale_fx.masking.consumers.survey import find_consumers

AMOUNTS = (0.25, 0.5, 0.75)
SIZES = ((23, 70, 3), (40, 31, 5))  # nodes, edges, graphs: one dense graph, one with isolated nodes
SINGLE = (1, 0, 1)


#: Whether every model is tried at every amount (nightly); else only the five families are, and for the others the
#: amounts take turns.
EVERY_AMOUNT = os.environ.get("UPSCALE_FX_AMOUNTS") == "all"


def cases():
    """Models with the amounts they are pruned by."""
    for number, name in enumerate(zoo.ZOO):
        every = EVERY_AMOUNT or name.startswith("family-")
        for amount in AMOUNTS if every else [AMOUNTS[number % 3]]:
            yield pytest.param((name, amount), id=f"{name}-{amount}")


class Case:
    """One model without dropout, masked by an amount, and what is made of it; each is made once."""

    def __init__(self, name, amount):
        self.entry, self.amount = zoo.ZOO[name], amount
        self.model = zoo.without_dropout(zoo.make(name))
        self.example = self.entry.example()

    @cached_property
    def masked(self):
        return upscale_fx.mask(self.model, self.amount, example_kwargs=self.example)

    @cached_property
    def compacted(self):
        return upscale_fx.compact(self.masked, example_kwargs=self.example)

    @cached_property
    def pruned(self):
        return upscale_fx.prune(self.model, self.amount, example_kwargs=self.example)


@pytest.fixture(scope="module", params=cases())
def case(request):
    return Case(*request.param)


@pytest.fixture(params=zoo.ZOO)
def name(request):
    return request.param


def run(model, entry, size=SIZES[0], dtype=torch.float64, seed=3):
    inputs = {key: v.to(dtype) if v.is_floating_point() else v for key, v in entry.inputs(*size, seed=11).items()}
    torch.manual_seed(seed)
    with torch.no_grad():
        return model(**inputs)


def assert_same(expected, found, tolerance=1e-10):
    assert pytree.tree_structure(expected) == pytree.tree_structure(found)
    for a, b in zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True):
        assert a.isfinite().all(), "the reference itself must be finite for the comparison to mean anything"
        largest = float(a.abs().max()) if a.numel() else 0.0
        torch.testing.assert_close(b, a, rtol=0.0, atol=tolerance * max(largest, 1e-3))


def assert_same_on_all_sizes(expected, found, entry):
    for size in SIZES:
        assert_same(run(expected, entry, size), run(found, entry, size))
    try:
        alone = run(expected, entry, SINGLE)
    except (RuntimeError, ValueError, IndexError):
        return  # the model itself refuses a single node without edges
    assert_same(alone, run(found, entry, SINGLE))


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def own_keys(state):
    return {key for key in state if not key.endswith("_folded")}


# Tracing -------------------------------------------------------------------------------------------------------------


def test_traced_model_is_the_model(name):
    entry, model = zoo.ZOO[name], zoo.make(name)
    traced = upscale_fx.trace(model, example_kwargs=entry.example())
    assert_same_on_all_sizes(model, traced, entry)
    assert run_in_training(model, entry) == run_in_training(traced, entry), "same draws, same statistics"
    assert set(traced.state_dict()) <= set(model.state_dict())


def run_in_training(model, entry):
    """Outputs of two steps in train() and of eval() afterwards, as bytes."""
    model = copy.deepcopy(model).train()
    steps = [run(model, entry, size, seed=seed) for seed, size in enumerate(SIZES)]
    steps.append(run(model.eval(), entry))
    return [leaf.numpy().tobytes() for leaf in pytree.tree_leaves(steps)]


def test_the_model_is_left_as_it_was(name):
    entry, model = zoo.ZOO[name], zoo.make(name)
    for number, module in enumerate(model.modules()):
        module.training = number % 2 == 0  # a mode of its own for every module
    next(model.parameters()).requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    model.register_forward_pre_hook(lambda *_: None)
    before, state = condition(model), copy.deepcopy(model.state_dict())
    upscale_fx.mask(model, 0.5, example_kwargs=entry.example())
    upscale_fx.prune(model, 0.5, example_kwargs=entry.example())
    assert condition(model) == before
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def condition(model):
    """Everything about a model but its values: modes, hooks, identity of parameters, random numbers to come."""
    hooks = [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()]
    return (
        hooks,
        [(type(m), m.training, sorted(vars(m))) for m in model.modules()],
        [(name, id(p), p.requires_grad, p.grad) for name, p in model.named_parameters()],
        torch.get_rng_state().tolist(),
    )


# Exactness -----------------------------------------------------------------------------------------------------------


def test_compacted_is_masked(case):
    assert_same_on_all_sizes(case.masked, case.compacted, case.entry)


def test_pruned_is_masked(case):
    assert_same_on_all_sizes(case.masked, case.pruned, case.entry)


def test_in_training_too(case):
    masked, pruned = copy.deepcopy(case.masked).train(), copy.deepcopy(case.pruned).train()
    for size in SIZES:
        assert_same(run(masked, case.entry, size), run(pruned, case.entry, size))
    assert_same(run(masked.eval(), case.entry), run(pruned.eval(), case.entry))  # with the statistics of both steps


def test_after_a_deep_copy(case):
    twin = copy.deepcopy(case.pruned)
    assert_same(run(case.masked, case.entry), run(twin, case.entry))
    assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in case.pruned.parameters()}
    assert twin.state_dict().keys() == case.pruned.state_dict().keys()


def test_in_float32(case):
    masked, pruned = copy.deepcopy(case.masked).to(torch.float32), copy.deepcopy(case.pruned).to(torch.float32)
    expected, found = (run(model, case.entry, dtype=torch.float32) for model in (masked, pruned))
    assert {leaf.dtype for leaf in pytree.tree_leaves(found)} == {torch.float32}
    assert_same(expected, found, tolerance=1e-4)


def hidden_readers(compiled):
    """Consumers of hidden channels that have any left that are not zero."""
    found = [c for c in find_consumers(analyse(unfused(compiled))) if c.hidden.any()]
    return [c for c in found if c.reads(compiled).any()]


def one_channel_a_head(consumer, root):
    """Whether every head a consumer reads has a single live channel left, half of which is none."""
    live = consumer.reads(root) & consumer.hidden
    blocks = consumer.blocks if consumer.blocks is not None else np.zeros(consumer.count, dtype=int)
    return np.bincount(blocks[live]).max() <= 1


@pytest.mark.filterwarnings("ignore::upscale_fx.UpscaleWarning")  # heads of one channel have none to lose
def test_pruned_a_second_time(case):
    if all(one_channel_a_head(consumer, case.pruned) for consumer in hidden_readers(case.pruned)):
        with pytest.raises(upscale_fx.NothingToPruneError, match="rounds to none"):
            upscale_fx.prune(case.pruned, 0.5)
        return
    masked, pruned = upscale_fx.mask(case.pruned, 0.5), upscale_fx.prune(case.pruned, 0.5)
    assert_same_on_all_sizes(masked, pruned, case.entry)
    assert own_keys(pruned.state_dict()) <= set(case.model.state_dict())


def test_after_pickling_into_a_fresh_process(case, fresh_process):
    inputs = case.entry.inputs(*SIZES[0], seed=11)
    assert_same(run(case.masked, case.entry), fresh_process(case.pruned, inputs))


def test_after_torch_save(tmp_path):
    """Its protocol cannot store torch's memory formats by itself, which spectral norms name."""
    model = nn.Sequential(nn.Linear(6, 8), spectral_norm(nn.Linear(8, 8)), nn.Linear(8, 2))
    x = torch.randn(5, 6)
    compiled = upscale_fx.prune(model.eval(), 0.5, example_inputs=(x,))
    torch.save(compiled, tmp_path / "compiled.pt")
    loaded = torch.load(tmp_path / "compiled.pt", weights_only=False)
    assert torch.equal(loaded(x), compiled(x))


@pytest.fixture(scope="session")
def fresh_process():
    """Runs models in another process, which knows neither the zoo nor what was traced here."""
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run_there(model, inputs):
        pickle.dump(pickle.dumps((model, inputs)), child.stdin)
        child.stdin.flush()
        return pickle.load(child.stdout)

    yield run_there
    child.communicate()


CHILD = """
import pickle, sys, traceback
try:
    while True:
        received = pickle.load(sys.stdin.buffer)
        try:
            model, inputs = pickle.loads(received)
            answer = model(**inputs)
        except Exception:
            answer = traceback.format_exc()
        assert "tests.zoo" not in sys.modules
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()
except EOFError:
    pass
"""


# Size ----------------------------------------------------------------------------------------------------------------


def test_gets_smaller_and_keeps_its_names(case):
    for smaller in (case.compacted, case.pruned):
        assert own_keys(smaller.state_dict()) <= set(case.model.state_dict())
        assert own_keys(dict(smaller.named_parameters())) <= set(dict(case.model.named_parameters()))
        if not case.entry.barrier:
            assert parameters(smaller) < parameters(case.model)


def test_compacting_twice_is_compacting_once(case):
    again = upscale_fx.compact(case.compacted)
    assert parameters(again) == parameters(case.compacted)
    assert_same_on_all_sizes(case.masked, again, case.entry)


# The mask ------------------------------------------------------------------------------------------------------------


def test_the_mask_changes_the_output(case):
    dense, masked = pytree.tree_leaves(run(case.model, case.entry)), pytree.tree_leaves(run(case.masked, case.entry))
    assert all(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(dense, masked, strict=True))
    assert type(case.masked) is type(case.model)


#: Model, weight, blocks of input columns: how many channels each has, negative for raw inputs, which all stay.
CONSUMERS = [
    ("gcn", "convs.0.lin", [-12]),
    ("gcn", "convs.1.lin", [16]),
    ("gcn", "convs.2.lin", [16]),
    ("gcn-odd-widths", "convs.1.lin", [7]),
    ("gcn-odd-widths", "convs.2.lin", [31]),
    ("sage-mean", "convs.0.lin_r", [-12]),
    ("sage-mean", "convs.1.lin_l", [16]),
    ("sage-mean", "convs.1.lin_r", [16]),
    ("sage-project", "convs.1.lin", [16]),
    ("sage-project", "convs.1.lin_l", [16]),
    ("gat-4", "convs.1.lin", [4] * 4),
    ("gat-mean", "convs.1.lin", [16]),
    ("gatv2-4", "convs.1.lin_l", [4] * 4),
    ("gatv2-4", "convs.2.lin_r", [4] * 4),
    ("transformer-4", "convs.1.lin_value", [4] * 4),
    ("transformer-edges", "convs.1.lin_edge", [-3]),
    ("gin", "convs.1.nn.0", [16]),
    ("gin", "convs.1.nn.2", [16]),
    ("jk-cat", "lin", [48]),
    ("jk-max", "lin", [16]),
    ("residual-batch-norm", "convs.2.lin", [16]),
    ("raw-and-hidden", "second.lin_l", [-12, 16]),
    ("raw-and-hidden", "leave", [32, -12]),
    ("dense-gcn", "convs.2.lin", [48]),
    ("edge-mlp", "convs.1.mlp.0", [32]),
    ("edge-mlp-features", "convs.1.mlp.0", [32, -3]),
    ("pool-all", "head.0", [48]),
    ("linear-twice", "shared", [16]),
    ("glu-chunk", "again.lin", [16]),
    ("family-jknet", "lin", [48]),
]


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize(("name", "weight", "blocks"), CONSUMERS)
def test_the_mask_zeroes_the_share_asked(name, weight, blocks, amount):
    model = zoo.make(name)
    masked = upscale_fx.mask(model, amount, example_kwargs=zoo.ZOO[name].example())
    columns = masked.get_parameter(f"{weight}.weight")
    zero = (columns == 0).all(dim=0)
    counts = [int(block.sum()) for block in zero.split([abs(width) for width in blocks])]
    assert counts == [round(amount * width) if width > 0 else 0 for width in blocks]
    assert not (model.get_parameter(f"{weight}.weight") == 0).all(dim=0).any()


@pytest.mark.parametrize("amount", AMOUNTS)
def test_the_mask_zeroes_attention_vectors_head_by_head(amount):
    masked = upscale_fx.mask(zoo.make("gatv2-4"), amount)
    for conv, width in zip(masked.convs, (4, 4, zoo.OUTPUT), strict=True):
        assert (conv.att == 0).sum(dim=-1).tolist() == [[round(amount * width)] * 4]


@pytest.mark.parametrize("amount", AMOUNTS)
def test_the_mask_zeroes_pairs_of_query_and_key(amount):
    masked = upscale_fx.mask(zoo.make("transformer-4"), amount)
    conv = masked.convs[1]
    query, key = ((lin.weight == 0).all(dim=1).view(4, 4) for lin in (conv.lin_query, conv.lin_key))
    assert torch.equal(query, key)
    assert query.sum(dim=1).tolist() == [round(amount * 4)] * 4
    assert not conv.lin_query.bias.view(4, 4)[query].any()


def test_amount_zero_changes_nothing():
    entry, model = zoo.ZOO["sage-mean"], zoo.make("sage-mean")
    pruned = upscale_fx.prune(model, 0)
    assert parameters(pruned) == parameters(model)
    assert_same_on_all_sizes(model, pruned, entry)


def test_compact_takes_zeros_that_others_made():
    """Weights pruned by torch.nn.utils.prune, whose re-parametrisation is still on."""
    entry, model = zoo.ZOO["sage-mean"], zoo.make("sage-mean")
    for conv in model.convs[1:]:
        for lin in (conv.lin_l, conv.lin_r):
            nn.utils.prune.ln_structured(lin, "weight", amount=0.5, n=2, dim=1)
    compacted = upscale_fx.compact(model)
    assert parameters(compacted) < sum(p.numel() for p in zoo.make("sage-mean").parameters())
    assert own_keys(compacted.state_dict()) <= set(zoo.make("sage-mean").state_dict())
    assert_same_on_all_sizes(model, compacted, entry)
