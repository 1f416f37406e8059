"""An optimizer's state follows its parameters through pruning.

Two oracles say where every entry must go without knowing how parameters are cut. State equal to the parameter (of the
masked model) must equal the compiled parameter. State equal to the gradient must equal the compiled gradient, as both
models compute the same function of the entries that are left; attention folds change the gradients of the layers before
them, which are left out of that.
"""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune
from torch.utils import _pytree as pytree
from torch_geometric.nn import RGCNConv

import upscale_fx
from tests import zoo
from tests.selection import every
from tests.training.optimizers import DRAW, EDGES, X, adam_with, held, small
from upscale_fx.compacting.rewrite.origins import origin_of
from upscale_fx.compiled.module import record_of
from upscale_fx.models import SAGE, SimpleGCN
from upscale_fx.training.transfer_optimizer import transfer_optimizer

MODELS = """
gcn sage-two-aggregations gat-4 gat-mean gat-edges gatv2-shared transformer-edges-beta gin-norm jk-cat jk-lstm
residual-batch-norm dense-sage raw-and-hidden pool-all edge-updates link-mlp conv-three-times two-branches glu-strided
activations-more raw-forms norm-graph more-cheb
""".split()


def total(model, inputs):
    """A number that depends on every output in its own way."""
    draw = torch.Generator().manual_seed(1)
    outputs = [leaf for leaf in pytree.tree_leaves(model(**inputs)) if leaf.is_floating_point()]
    return sum((leaf * torch.randn(leaf.shape, generator=draw, dtype=leaf.dtype)).sum() for leaf in outputs)


def gradients(model, inputs):
    model.zero_grad()
    total(model, inputs).backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


def averages(optimizer, model):
    """The moments of every parameter that has some, by name."""
    return {
        name: optimizer.state[p]["exp_avg"] for name, p in model.named_parameters() if optimizer.state.get(p)
    }  # fmt: skip


class Relational(nn.Module):
    """Two relational layers: a weight per relation, and one of blocks."""

    def __init__(self):
        super().__init__()
        self.first, self.second = RGCNConv(12, 16, 3), RGCNConv(16, 8, 3, num_bases=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x, edge_index, edge_type):
        x = self.first(x, edge_index, edge_type).relu()
        return self.head(self.second(x, edge_index, edge_type).relu())


def cases():
    for name in MODELS:
        entry = zoo.ZOO[name]
        yield pytest.param(lambda name=name: zoo.make(name), entry.inputs(23, 70, 3, seed=5), entry.example(), id=name)
    inputs = {"x": X, "edge_index": EDGES, "edge_type": torch.randint(3, (70,), generator=DRAW)}
    yield pytest.param(lambda: Relational().double(), inputs, inputs, id="rgcn")


@pytest.mark.parametrize(("build", "inputs", "example"), every(6, cases()))
def test_state_goes_where_its_entry_goes(build, inputs, example):
    torch.manual_seed(0)
    model = zoo.without_dropout(build()).eval()
    masked = upscale_fx.mask(model, 0.5, example_kwargs=example)
    compiled = upscale_fx.prune(model, 0.5, example_kwargs=example)
    folded = {name for name, _ in compiled.named_parameters() if name.endswith("_folded")}
    folds = {name.rpartition(".")[0] for name in folded}

    old = adam_with(masked, dict(masked.named_parameters()))
    new = transfer_optimizer(old, masked, compiled)
    assert held(new) == {id(parameter) for parameter in compiled.parameters()}
    found = averages(new, compiled)
    assert found.keys() == {name for name, _ in compiled.named_parameters()} - folded
    for name, average in found.items():
        parameter = compiled.get_parameter(name)
        torch.testing.assert_close(average, parameter.detach(), rtol=0, atol=0, msg=name)
        torch.testing.assert_close(new.state[parameter]["exp_avg_sq"], parameter.detach().square(), rtol=0, atol=0)
        assert float(new.state[parameter]["step"]) == 7
    assert any(average.numel() < masked.get_parameter(name).numel() for name, average in found.items())

    wanted = gradients(compiled, inputs)
    old = adam_with(masked, gradients(masked, inputs))
    for name, average in averages(transfer_optimizer(old, masked, compiled), compiled).items():
        if name.rpartition(".")[0].removesuffix(".lin") not in folds:
            scale = max(1e-4, float(wanted[name].abs().max())) if average.numel() else 1.0
            torch.testing.assert_close(average, wanted[name], rtol=1e-9, atol=1e-10 * scale, msg=name)


@pytest.mark.parametrize("build", [SimpleGCN, SAGE], ids=["GCN", "SAGE"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.Adam, {"weight_decay": 0.01, "amsgrad": True}),
        (torch.optim.AdamW, {"lr": 0.01}),
        (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
        (torch.optim.RMSprop, {"momentum": 0.5, "centered": True}),
        (torch.optim.NAdam, {"lr": 0.01}),
        (torch.optim.Rprop, {"lr": 0.01}),
        (torch.optim.ASGD, {"lr": 0.05}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_next_steps_are_those_of_the_masked_model(build, kind, options):
    """Train, mask, prune; then both go on, the masked model with its zeros held at zero, and stay equal."""
    torch.manual_seed(0)
    model = zoo.without_dropout(build(12, 16, 5)).double()
    zoo.randomise(model)
    labels = torch.randint(5, (23,))
    optimizer = kind(model.parameters(), **options)
    step(model, optimizer, labels)
    step(model, optimizer, labels)
    masked, compiled = (f(model, 0.5, constrained=True) for f in (upscale_fx.mask, upscale_fx.prune))
    assert all((parameter != 0).all() for parameter in compiled.parameters()), "no zero is left that could be trained"
    zeros = {name: parameter == 0 for name, parameter in masked.named_parameters()}
    moved = copied(optimizer, model, masked)
    new = transfer_optimizer(optimizer, model, compiled)
    for _ in range(2):
        step(masked, moved, labels)
        with torch.no_grad():
            for name, parameter in masked.named_parameters():
                parameter[zeros[name]] = 0
        before = compiled(X, EDGES)
        step(compiled, new, labels)
        torch.testing.assert_close(compiled(X, EDGES), masked(X, EDGES), rtol=0, atol=1e-8)
        assert (compiled(X, EDGES) - before).abs().max() > 1e-3


def step(model, optimizer, labels):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(X, EDGES), labels).backward()
    optimizer.step()


def copied(optimizer, model, other):
    """The same optimizer over a copy of the model."""
    new = type(optimizer)(
        other.parameters(), **{k: v for k, v in optimizer.defaults.items() if k != "decoupled_weight_decay"}
    )
    new.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return new


# What is made of the graph afterwards --------------------------------------------------------------------------------


def assert_follows(old_model, compiled):
    """State equal to the parameters of one model becomes the parameters of the other."""
    new = transfer_optimizer(adam_with(old_model, dict(old_model.named_parameters())), old_model, compiled)
    found = averages(new, compiled)
    fresh = dict(compiled.named_parameters()).keys() - found.keys()
    assert {name for name in fresh if not name.endswith("_folded")} == set()
    assert fresh.isdisjoint(dict(old_model.named_parameters())), "what a fold made before is followed like any other"
    for name, average in found.items():
        assert torch.equal(average, compiled.get_parameter(name)), name


def test_a_graph_pruned_twice_follows_each_of_its_ancestors():
    model = small()
    first_mask = upscale_fx.mask(model, 0.3)
    once = upscale_fx.prune(model, 0.3)
    twice = upscale_fx.prune(once, 0.4)
    again = upscale_fx.mask(once, 0.4)
    assert sum(p.numel() for p in twice.parameters()) < sum(p.numel() for p in once.parameters())
    assert_follows(first_mask, once)
    assert_follows(again, twice)
    new = transfer_optimizer(adam_with(first_mask, dict(first_mask.named_parameters())), first_mask, twice)
    for name, average in averages(new, twice).items():
        parameter = twice.get_parameter(name)
        cut = parameter != 0  # the second mask zeroed entries of which some stay, for other readers
        assert torch.equal(average[cut], parameter[cut])


def test_a_folded_parameter_is_followed_by_a_second_prune():
    model = zoo.make("gat-4")
    once = upscale_fx.prune(model, 0.5)
    masked, twice = upscale_fx.mask(once, 0.5), upscale_fx.prune(once, 0.5)
    folded = {name for name, _ in once.named_parameters() if name.endswith("_folded")}
    assert folded
    assert folded <= dict(twice.named_parameters()).keys()
    assert_follows(masked, twice)


def test_copies_and_pickles_remember():
    model = small()
    masked, compiled = upscale_fx.mask(model, 0.5), upscale_fx.prune(model, 0.5)
    for one in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled)), upscale_fx.optimize(compiled)):
        assert_follows(masked, one)


def test_a_traced_graph_is_an_ancestor_too():
    masked = upscale_fx.mask(small(), 0.5)
    traced = upscale_fx.trace(masked)
    compacted = upscale_fx.compact(traced)
    assert_follows(masked, traced)
    assert_follows(traced, compacted)
    assert_follows(masked, compacted)


def test_names_of_torch_prune_are_those_after_its_removal():
    model = small()
    for conv in model.convs:
        torch_prune.ln_structured(conv.lin_l, "weight", 0.5, n=2, dim=1)
    compiled = upscale_fx.compact(model)
    assert "convs.1.lin_l.weight_orig" in dict(model.named_parameters())
    new = transfer_optimizer(adam_with(model, dict(model.named_parameters())), model, compiled)
    found = averages(new, compiled)
    assert found.keys() == dict(compiled.named_parameters()).keys()
    parameter = compiled.get_parameter("convs.1.lin_l.weight")
    kept = parameter != 0
    assert torch.equal(found["convs.1.lin_l.weight"][kept], parameter[kept])


def test_what_an_inference_fold_made_starts_fresh():
    model = zoo.make("residual-batch-norm")
    masked = upscale_fx.mask(model, 0.5)
    compiled = upscale_fx.optimize(upscale_fx.compact(masked), inference=True)
    new = transfer_optimizer(adam_with(masked, dict(masked.named_parameters())), masked, compiled)
    found = averages(new, compiled)
    fresh = dict(compiled.named_parameters()).keys() - found.keys()
    assert fresh
    assert held(new) == {id(parameter) for parameter in compiled.parameters()}
    assert found, "layers beside no batch norm keep theirs"
    for name, average in found.items():
        if average.dim() > 1:
            assert torch.equal(average, compiled.get_parameter(name)), name


def test_the_record_is_small():
    """Picks along each axis, not a place for every entry."""
    compiled = upscale_fx.prune(SAGE(64, 256, 40), 0.5)
    picks = [origin.picks for origin in record_of(compiled).origins.values()]
    assert all(isinstance(pick, tuple) for pick in picks)
    noted = sum(axis.nbytes for pick in picks for axis in pick)
    assert noted < 0.03 * sum(p.numel() * p.element_size() for p in compiled.parameters())
    assert origin_of(SAGE(64, 256, 40), "convs.0.lin_l.weight").picks is None
