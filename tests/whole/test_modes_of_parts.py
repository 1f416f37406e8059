"""``train()`` and ``eval()`` of a part count as in the model, whatever was made of it, and wherever they are called."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import BatchNorm, GATConv, GCNConv

import upscale_fx
from tests.selection import every, only
from tests.whole.models_with_modes import Model, Passed, Twice
from tests.whole.refusals import refused
from upscale_fx import ModeError, UpscaleWarning, VerificationError

X, EDGES = torch.randn(30, 8, dtype=torch.float64), torch.randint(30, (2, 120))


def attribute(module, mode):
    """Switch a module alone, and none below it."""
    module.training = mode


MODELS = {"deep": Model, "twice": Twice}
#: By name a model, and what is switched.
SWITCHES = {
    "all in train": ("deep", lambda m: m.train()),
    "all in eval": ("deep", lambda m: m.eval()),
    "a frozen backbone": ("deep", lambda m: m.train() and m.inner.first.eval()),
    "a backbone that trains": ("deep", lambda m: m.eval() and m.inner.first.train()),
    "a container": ("deep", lambda m: m.train() and m.inner.eval()),
    "a layer three deep": ("deep", lambda m: m.train() and m.inner.first.a.eval()),
    "another layer three deep": ("deep", lambda m: m.eval() and m.inner.first.b.train()),
    "batch norm": ("deep", lambda m: m.train() and m.inner.first.norm.eval()),
    "a module without modes": ("deep", lambda m: m.train() and m.inner.first.act.eval()),
    "items of a list": ("deep", lambda m: m.train() and [p.eval() for p in m.layers.children()]),
    "a dropout module": ("deep", lambda m: m.eval() and getattr(m.layers, "1").train()),
    "only the root": ("deep", lambda m: attribute(m.eval(), True)),
    "only the root in eval": ("deep", lambda m: attribute(m.train(), False)),
    "an attribute of a part": ("deep", lambda m: attribute(m.eval().inner.first, True)),
    "apply": ("deep", lambda m: m.train() and m.inner.apply(lambda part: part.eval())),
    "called twice": ("twice", lambda m: m.train() and m.conv.eval()),
    "by its second name": ("twice", lambda m: m.train() and getattr(m.again, "0").eval()),
    "by a container of its second name": ("twice", lambda m: m.eval() and m.again.train()),
    "a mode that is passed down": ("twice", lambda m: m.train() and m.passed.eval()),
    "the mode of the module above": ("twice", lambda m: m.eval() and m.passed.train()),
}


def made(name):
    torch.manual_seed(0)
    return MODELS[name]().double()


def is_random(model):
    with torch.no_grad():
        return not torch.equal(model(X, EDGES), model(X, EDGES))


@pytest.fixture(scope="module")
def originals():
    return {name: (upscale_fx.mask(made(name), 0.5), upscale_fx.prune(made(name), 0.5)) for name in MODELS}


@pytest.fixture
def pairs(originals):
    """By name of a model: it masked, and pruned; copies of one test, since batch norms change in train()."""
    return copy.deepcopy(originals)


@pytest.mark.parametrize("case", every(4, SWITCHES, start=1))
def test_a_switch_after_pruning(pairs, case):
    name, switch = SWITCHES[case]
    masked, pruned = pairs[name]
    for model in (masked, pruned):
        switch(model)
    twins = [pruned, copy.deepcopy(pruned), pickle.loads(pickle.dumps(pruned)), upscale_fx.trace(pruned)]
    for twin in twins:
        assert upscale_fx.verify(masked, twin, (X, EDGES)) < 1e-10
    assert is_random(masked) == is_random(pruned)


@pytest.mark.parametrize("case", only(["a frozen backbone"], SWITCHES))
def test_a_switch_before_pruning(case):
    name, switch = SWITCHES[case]
    model = made(name)
    switch(model)
    masked = upscale_fx.mask(model, 0.5)
    traced, compacted, pruned = upscale_fx.trace(model), upscale_fx.compact(masked), upscale_fx.prune(model, 0.5)
    assert upscale_fx.verify(model, traced, (X, EDGES)) < 1e-10
    for made_of_it in (compacted, pruned, upscale_fx.optimize(compacted)):
        assert upscale_fx.verify(masked, made_of_it, (X, EDGES)) < 1e-10
        assert is_random(made_of_it) == is_random(model)


@pytest.mark.slow
def test_pruning_again_and_in_steps_keeps_the_modes():
    model = made("deep").train()
    model.inner.eval()
    twice = upscale_fx.prune(upscale_fx.prune(model, 0.25), 0.5)
    stepped = upscale_fx.prune(model, 0.5, steps=2)
    for pruned in (twice, stepped):
        modes = pruned.training, pruned.inner.training, pruned.inner.first.a.training, pruned.layers.training
        assert modes == (True, False, False, True)
        assert is_random(pruned)
        assert not is_random(pruned.eval())


def test_verify_compares_in_the_modes_of_the_reference(pairs):
    """Whatever modes the compiled model is in; one whose modes mean something else is found out."""
    masked, pruned = pairs["deep"]
    masked.train(), masked.inner.eval()
    assert upscale_fx.verify(masked, pruned.train(), (X, EDGES)) < 1e-10
    assert upscale_fx.verify(masked, pruned.eval(), (X, EDGES)) < 1e-10
    assert not any(module.training for module in pruned.modules())
    pruned.get_submodule("inner.first.a.by_mode").in_eval = True
    with pytest.raises(VerificationError, match="by "):
        upscale_fx.verify(masked, pruned, (X, EDGES))
    pruned.get_submodule("inner.first.a.by_mode").in_eval = False
    pruned.get_submodule("layers.2.by_mode").in_train = False
    with pytest.raises(VerificationError, match=r"in the modes of the reference; in eval\(\) the models agree"):
        upscale_fx.verify(masked, pruned, (X, EDGES))


def test_verify_changes_no_statistics(pairs):
    masked, pruned = (model.train() for model in pairs["deep"])
    before = [value.clone() for model in (masked, pruned) for value in model.buffers()]
    upscale_fx.verify(masked, pruned, (X, EDGES))
    after = [value for model in (masked, pruned) for value in model.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_fine_tuning_leaves_frozen_parts_frozen():
    model = made("deep").train()
    model.inner.eval()
    pruned = upscale_fx.prune(model, 0.5)
    statistics = pruned.inner.first.norm.module.running_mean.clone()
    seen = []
    upscale_fx.finetune(
        pruned, [(X, EDGES)], lambda out, _: seen.append(pruned.inner.first.b.training) or out.square().mean(), epochs=2
    )
    assert torch.equal(pruned.inner.first.norm.module.running_mean, statistics)
    assert not any(seen)
    assert (pruned.training, pruned.inner.training) == (True, False)
    with torch.no_grad():  # in eval() as a whole, it is trained as a whole
        upscale_fx.finetune(pruned.eval(), [(X, EDGES)], lambda out, _: out.square().mean(), epochs=1)
    assert not pruned.training


@pytest.mark.slow
def test_compiled_and_exported_by_torch():
    pruned = upscale_fx.prune(made("deep"), 0.5).train()
    pruned.inner.eval(), pruned.layers.eval()
    compiled = torch.compile(pruned, backend="eager", fullgraph=True)
    assert is_random(compiled)
    pruned.eval()
    assert not is_random(compiled)
    pruned.inner.first.a.train()
    assert is_random(compiled)
    program = torch.export.export(upscale_fx.compact(made("deep")).eval(), (X, EDGES))
    assert not is_random(program.module())


@pytest.mark.slow
def test_the_dynamo_backend_sees_the_modes():
    model = made("deep").eval()
    model.inner.first.train(), model.inner.first.norm.eval()
    with torch.no_grad():
        assert is_random(torch.compile(model, backend="upscale", fullgraph=True))
        torch.compiler.reset()
        assert not is_random(torch.compile(model.eval(), backend="upscale", fullgraph=True))


class OtherInTraining(nn.Module):
    """Runs another layer in training."""

    def __init__(self):
        super().__init__()
        self.conv, self.noise = GCNConv(8, 8), nn.Linear(8, 8)

    def forward(self, x, edge_index):
        x = self.conv(x, edge_index)
        return x + self.noise(x) if self.training else x


class Holder(nn.Module):
    """Such a layer, and dropout next to it."""

    def __init__(self):
        super().__init__()
        self.odd, self.drop, self.head = OtherInTraining(), Passed(), nn.Linear(3, 2)

    def forward(self, x, edge_index):
        return self.head(self.drop(self.odd(x, edge_index), edge_index, self.training))


def test_only_the_part_that_trains_otherwise_stays_in_eval():
    model = Holder().double().train()
    model.odd.eval()
    pruned = upscale_fx.prune(model, 0.5)
    assert upscale_fx.verify(upscale_fx.mask(model, 0.5), pruned, (X, EDGES)) < 1e-10
    assert is_random(pruned)
    for switch in (pruned.train, pruned.odd.train, lambda: setattr(pruned.odd, "training", True)):
        with refused(pruned, ModeError, r"eval\(\) only", "other operations"):
            switch()
    pruned.eval()
    assert not is_random(pruned)
    pruned.drop.train()
    assert is_random(copy.deepcopy(pruned))


def test_a_part_that_trains_otherwise_is_put_into_eval_with_a_warning():
    model = Holder().double().eval()
    model.odd.train()
    with pytest.warns(UpscaleWarning, match=r"odd is in train\(\), but .* eval\(\) only"):
        pruned = upscale_fx.prune(model, 0.5)
    assert not any(module.training for module in pruned.modules())


@pytest.mark.parametrize("part", ["", "inner", "inner.first.a"])
def test_no_part_of_a_graph_for_inference_trains(part):
    fast = upscale_fx.optimize(upscale_fx.trace(made("deep").train()), inference=True)
    assert not any(module.training for module in fast.modules())
    with refused(fast, ModeError, r"eval\(\) only"):
        fast.get_submodule(part).train()
    assert not is_random(fast.apply(lambda module: module.eval()))


class OwnTrain(nn.Module):
    """Keeps its norm in eval(), in a train() of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = GATConv(8, 8, dropout=0.5), BatchNorm(8)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x, edge_index):
        return self.norm(self.conv(x, edge_index))


@pytest.mark.parametrize("is_part", [False, True])
def test_a_train_of_the_models_own_is_kept(is_part):
    model = (Around(OwnTrain()) if is_part else OwnTrain()).double()
    pruned = upscale_fx.prune(model, 0.5, inputs=True)
    masked = upscale_fx.mask(model, 0.5, inputs=True)
    for mode in (True, False, True):
        masked.train(mode), pruned.train(mode)
        assert upscale_fx.verify(masked, pruned, (X, EDGES)) < 1e-10


class Around(nn.Module):
    """A model around another."""

    def __init__(self, body):
        super().__init__()
        self.body, self.head = body, nn.Linear(8, 2)

    def forward(self, x, edge_index):
        return self.head(self.body(x, edge_index))


class SwitchesItself(nn.Module):
    """Switches one of its modules in forward()."""

    def __init__(self, mode):
        super().__init__()
        self.conv, self.drop, self.head, self.mode = GCNConv(8, 8), nn.Dropout(0.5), nn.Linear(8, 2), mode

    def forward(self, x, edge_index):
        self.drop.train(self.mode)
        return self.head(self.drop(self.conv(x, edge_index)))


def test_a_module_that_forward_switches_is_refused():
    model = SwitchesItself(True).eval()
    with refused(model, upscale_fx.TraceError, r"forward\(\) switches drop to train\(\)"):
        upscale_fx.prune(model, 0.5)
    pruned = upscale_fx.prune(SwitchesItself(False).eval(), 0.5)
    with refused(pruned, ModeError, r"forward\(\) switches drop to eval\(\)"):
        pruned.train()


class BothModes(Passed):
    """One argument for the modes of two modules."""

    def forward(self, x, edge_index, train):
        return F.dropout(self.out(self.conv(x, edge_index), edge_index), 0.5, train and self.training)


def test_a_constant_of_two_modes_is_for_eval_only():
    model = Holder().double().eval()
    model.odd, model.drop = GCNConv(8, 8).double(), BothModes().double()
    model.eval()
    pruned = upscale_fx.prune(model, 0.5)
    with refused(pruned, ModeError, r"eval\(\) only", "modes of several modules"):
        pruned.train()
