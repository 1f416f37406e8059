"""Fine-tuning: what is kept, when it stops, what it is trained towards, and what it leaves alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

import prune_gnn
import upscale_fx
from tests import zoo
from upscale_fx.compiled.undisturbed import in_mode
from upscale_fx.errors import InputError, UpscaleError, UpscaleWarning
from upscale_fx.models import SAGE, JKNet, SimpleGCN
from upscale_fx.training.distillation import distillation
from upscale_fx.training.finetune import finetune
from upscale_fx.training.transfer_optimizer import transfer_optimizer

STORED = prune_gnn.STORED if (prune_gnn.STORED / "load.py").is_file() else None
DRAW = torch.Generator().manual_seed(0)
X, EDGES, Y = (
    torch.randn(40, 12, generator=DRAW),
    torch.randint(40, (2, 120), generator=DRAW),
    torch.randint(5, (40,), generator=DRAW),
)
DATA = Data(x=X, edge_index=EDGES, y=Y)
quiet = {"progress": False}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def dense(family=SAGE, **options):
    return family(12, 32, 5, **options)


def pruned(model=None, amount=0.75):
    return upscale_fx.prune(model or dense(), amount)


def cross_entropy(output, batch):
    return F.cross_entropy(output, batch.y)


def loss_of(model):
    model.eval()
    with torch.no_grad():
        return float(F.cross_entropy(model(X, EDGES), Y))


def kl_to(teacher, model):
    """By its definition, without torch's own."""
    with in_mode(teacher, training=False), in_mode(model, training=False), torch.no_grad():
        t, s = teacher(X, EDGES).double().softmax(-1), model(X, EDGES).double().softmax(-1)
    return float((t * (t / s).log()).sum(-1).mean())


# What it is trained towards ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [SimpleGCN, SAGE, JKNet])
def test_a_fused_graph_learns_its_labels(family):
    compiled = pruned(dense(family, dropout=0.2))
    before = loss_of(compiled)
    result = finetune(compiled, DATA, cross_entropy, epochs=60, lr=0.01, **quiet)
    assert result.model is compiled
    assert loss_of(compiled) < 0.8 * before
    assert -result.history[result.best].score == pytest.approx(loss_of(compiled), rel=1e-5)
    assert result.best == max(result.history, key=lambda epoch: epoch.score).number


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_brings_a_graph_closer_to_its_teacher(temperature):
    teacher = dense()
    finetune(teacher, DATA, cross_entropy, epochs=30, lr=0.01, **quiet)
    compiled = pruned(teacher)
    before = kl_to(teacher, compiled)
    finetune(compiled, (X, EDGES), teacher=teacher, epochs=40, lr=0.01, temperature=temperature, **quiet)
    assert kl_to(teacher, compiled) < 0.5 * before


def test_the_teacher_is_left_alone():
    teacher = dense().train()
    teacher.convs[1].eval()
    modes = [module.training for module in teacher.modules()]
    state = {name: value.clone() for name, value in teacher.state_dict().items()}
    seen = []
    teacher.register_forward_hook(lambda module, args, output: seen.append((module.training, output.requires_grad)))
    compiled = pruned(teacher.eval())
    for module, mode in zip(teacher.modules(), modes, strict=True):
        module.training = mode
    seen.clear()
    finetune(compiled, DATA, teacher=teacher, epochs=2, **quiet)
    assert seen == [(False, False)] * 5, "two steps, three scores, none of them with gradients or dropout"
    assert [module.training for module in teacher.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_loss_and_a_teacher_are_weighted():
    teacher, results = dense(), []
    for weight in (0.0, 0.25, 1.0):
        compiled = pruned(teacher)
        result = finetune(compiled, DATA, cross_entropy, 1, teacher=teacher, teacher_weight=weight, lr=0, **quiet)
        results.append(-result.history[0].score)
    own, both, matched = results
    assert own == pytest.approx(loss_of(compiled), rel=1e-5)
    assert matched == pytest.approx(kl_to(teacher, compiled), rel=1e-4)
    assert both == pytest.approx(0.75 * own + 0.25 * matched, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_is_the_divergence_of_softmaxes(temperature):
    s, t = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    p, q = (t / temperature).softmax(-1), (s / temperature).softmax(-1)
    expected = temperature**2 * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(distillation(s, t, temperature), expected)
    assert float(distillation(t, t, temperature)) == pytest.approx(0, abs=1e-12)


def test_distillation_of_scalars_and_of_several_outputs():
    s, t = torch.randn(7, 1), torch.randn(7, 1)
    torch.testing.assert_close(distillation(s, t), (s - t).square().mean())
    torch.testing.assert_close(distillation(s[:, 0], t[:, 0]), (s - t).square().mean())
    logits, wanted = torch.randn(3, 4), torch.randn(3, 4)
    both = distillation({"a": s, "b": (logits, torch.arange(3))}, {"a": t, "b": (wanted, torch.arange(3))})
    torch.testing.assert_close(both, distillation(s, t) + distillation(logits, wanted))
    with pytest.raises(InputError, match=r"shapes \[\[7, 1\]\], those of the teacher \[\[3, 4\]\]"):
        distillation(s, wanted)
    with pytest.raises(InputError, match="no floating-point tensor"):
        distillation(torch.arange(3), torch.arange(3))


# What is kept --------------------------------------------------------------------------------------------------------


def test_training_that_only_hurts_leaves_the_start():
    compiled = pruned()
    before = {name: value.clone() for name, value in compiled.state_dict().items()}
    result = finetune(compiled, DATA, lambda out, batch: -cross_entropy(out, batch), 4, validate=lambda m: -loss_of(m),
                      lr=0.05, **quiet)  # fmt: skip
    assert result.best == 0
    assert len(result.history) == 5
    assert all(epoch.score < result.history[0].score for epoch in result.history[1:])
    assert all(torch.equal(value, before[name]) for name, value in compiled.state_dict().items())


def test_the_best_epoch_is_kept_with_its_statistics():
    scores, states = iter([0.1, 0.3, 0.9, 0.2, 0.4]), []
    model = zoo.make("residual-batch-norm").float()
    compiled = upscale_fx.prune(model, 0.5)

    def validate(one):
        assert not one.training
        assert not torch.is_grad_enabled()
        states.append({name: value.clone() for name, value in one.state_dict().items()})
        return next(scores)

    result = finetune(compiled, DATA, cross_entropy, 4, validate=validate, **quiet)
    assert result.best == 2
    assert [epoch.score for epoch in result.history] == [0.1, 0.3, 0.9, 0.2, 0.4]
    assert all(torch.equal(value, states[2][name]) for name, value in compiled.state_dict().items())
    moved = [name for name in states[0] if not torch.equal(states[0][name], states[2][name])]
    assert any("running_mean" in name for name in moved), "batch norm did what it does in train()"
    assert any(name.endswith("weight") for name in moved)


def test_patience_stops_after_epochs_without_improvement():
    scores = iter([0.5, 0.6, 0.6, 0.4, 0.9])
    result = finetune(pruned(), DATA, cross_entropy, 50, validate=lambda model: next(scores), patience=2, **quiet)
    assert len(result.history) == 4
    assert result.best == 1


def test_a_score_that_is_no_number_never_wins():
    scores = iter([float("nan"), 0.1, float("nan")])
    assert finetune(pruned(), DATA, cross_entropy, 2, validate=lambda model: next(scores), **quiet).best == 1


def test_a_loss_that_explodes_stops_with_the_best_state_in_place():
    compiled, calls = pruned().eval(), []

    def explode(output, batch):
        calls.append(1)
        return cross_entropy(output, batch) * (float("nan") if len(calls) == 6 else 1)

    with pytest.raises(UpscaleError, match=r"the loss became nan in epoch 3; .* Lower the learning rate"):
        finetune(compiled, DATA, explode, 5, lr=0.01, **quiet)
    assert not compiled.training
    assert all(parameter.isfinite().all() for parameter in compiled.parameters())
    assert len(calls) == 6, "a score, then a step and a score in two epochs, then a step"
    with pytest.raises(UpscaleError, match="the loss is nan before any step"):
        finetune(compiled, DATA, lambda out, batch: out.sum() * float("nan"), **quiet)


def test_an_interruption_leaves_the_best_state_and_the_mode():
    compiled, calls = pruned().eval(), []
    before = {name: value.clone() for name, value in compiled.state_dict().items()}

    def interrupt(model):
        calls.append(model)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        finetune(compiled, DATA, cross_entropy, 3, validate=interrupt, lr=0.1, **quiet)
    assert not compiled.training
    assert all(torch.equal(value, before[name]) for name, value in compiled.state_dict().items())


def test_modes_and_frozen_parameters_stay():
    compiled = pruned()
    compiled.get_parameter("convs.0.lin_l.weight").requires_grad_(False)
    frozen = compiled.get_parameter("convs.0.lin_l.weight").clone()
    for training in (False, True):
        compiled.train(training)
        finetune(compiled, DATA, cross_entropy, 2, **quiet)
        assert {module.training for module in compiled.modules() if type(module) is not nn.ModuleList} == {training}
    parameter = compiled.get_parameter("convs.0.lin_l.weight")
    assert torch.equal(parameter, frozen)
    assert not parameter.requires_grad
    assert all(p.grad is None for p in compiled.parameters())


def test_a_seed_makes_it_repeatable():
    first = pruned(dense(dropout=0.5))
    found = []
    for seed in (1, 1, 2):
        compiled = copy.deepcopy(first)
        torch.manual_seed(seed)
        finetune(compiled, DATA, cross_entropy, 3, validate=rising(), **quiet)
        found.append(compiled.get_parameter("convs.2.lin_l.weight"))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def rising():
    """A score that calls every epoch the best so far."""
    count = iter(range(100))
    return lambda model: float(next(count))


def test_what_it_prints():
    scores = iter([0.5, 0.75, 0.7])
    result = finetune(
        pruned(), DATA, lambda out, batch: 0 * out.sum() + 2.0, 2, validate=lambda m: next(scores), **quiet
    )
    assert str(result).splitlines() == [
        "      epoch    loss    score",
        "--  -------  ------  -------",
        "          0  -        0.5000",
        "*         1  2.0000   0.7500",
        "          2  2.0000   0.7000",
        "kept epoch 1: score 0.5000 -> 0.7500",
    ]


# Graphs for eval() only ----------------------------------------------------------------------------------------------


def test_a_graph_for_inference_is_trained_in_eval_with_a_warning():
    compiled = upscale_fx.optimize(upscale_fx.compact(upscale_fx.mask(dense(), 0.5)), inference=True)
    before = loss_of(compiled)
    with pytest.warns(UpscaleWarning, match=r"trained in eval\(\), where dropout is off.*inference=True") as caught:
        finetune(compiled, DATA, cross_entropy, 20, lr=0.01, **quiet)
    assert caught[0].filename == __file__
    assert loss_of(compiled) < before
    assert not compiled.training


# Batches -------------------------------------------------------------------------------------------------------------


def test_loaders_give_batches():
    graphs = [
        Data(x=torch.randn(6, 12), edge_index=torch.randint(6, (2, 10)), y=torch.tensor([i % 2])) for i in range(9)
    ]
    compiled = upscale_fx.prune(zoo.ZOO["pool-mean"].build(), 0.5)
    steps = []

    def loss(output, batch):
        steps.append(batch.num_graphs)
        return F.cross_entropy(output, batch.y)

    result = finetune(compiled, DataLoader(graphs, batch_size=4), loss, 2, **quiet)
    assert steps == [4, 4, 1] * 5
    assert len(result.history) == 3


@pytest.mark.parametrize(
    ("batches", "loss"),
    [
        ([DATA, DATA], cross_entropy),
        ((X, EDGES), lambda out, batch: F.cross_entropy(out, Y)),
        ({"x": X, "edge_index": EDGES}, lambda out, batch: F.cross_entropy(out, Y[: len(batch["x"])])),
        ([(X, EDGES)], lambda out, batch: F.cross_entropy(out, Y)),
    ],
    ids=["graphs", "tuple", "dict", "list"],
)
def test_every_kind_of_batch_trains(batches, loss):
    compiled = pruned()
    before = loss_of(compiled)
    finetune(compiled, batches, loss, 5, lr=0.01, **quiet)
    assert loss_of(compiled) < before


def test_a_transform_gives_arguments_once_for_model_and_teacher():
    teacher, drawn = dense(), []

    def transform(batch):
        drawn.append(torch.rand_like(batch[0]))
        return batch[0] + drawn[-1], batch[1]

    compiled = pruned(teacher, 0.25)
    inputs = []
    teacher.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    finetune(compiled, [(X, EDGES, Y)], lambda out, batch: F.cross_entropy(out, batch[2]), 1, teacher=teacher,
             transform=transform, **quiet)  # fmt: skip
    assert len(drawn) == len(inputs) == 3
    assert all(torch.equal(given, X + noise) for given, noise in zip(inputs, drawn, strict=True))


def test_a_generator_serves_one_epoch():
    compiled = pruned()
    with pytest.raises(InputError, match=r"a generator gives its batches once, and 2 epochs .* pass a list"):
        finetune(compiled, (DATA for _ in range(3)), cross_entropy, 2, **quiet)
    drawn = []

    def draw():
        for number in range(3):
            drawn.append(number)
            yield DATA

    result = finetune(compiled, draw(), cross_entropy, 1, **quiet)
    assert len(result.history) == 2
    assert drawn == [0, 1, 2], "scored, stepped and scored on the same batches"
    finetune(compiled, draw(), cross_entropy, 1, validate=lambda model: 0.0, **quiet)
    assert drawn == [0, 1, 2] * 2


def test_no_batches_are_an_error():
    with pytest.raises(InputError, match="a list gave no batches"):
        finetune(pruned(), [], cross_entropy, **quiet)


# Optimizers ----------------------------------------------------------------------------------------------------------


def test_a_transferred_optimizer_goes_on():
    model = dense()
    old = torch.optim.AdamW(model.parameters(), lr=0.01)
    finetune(model, DATA, cross_entropy, 5, optimizer=old, **quiet)
    compiled = pruned(model, 0.5)
    new = transfer_optimizer(old, model, compiled)
    finetune(compiled, DATA, cross_entropy, 3, optimizer=new, **quiet)
    assert {float(new.state[parameter]["step"]) for parameter in compiled.parameters()} == {8.0}


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"nothing to train towards: pass loss_fn\(output, batch\), a teacher"),
        ({"loss_fn": cross_entropy, "epochs": 0}, "epochs must be at least 1, got 0"),
        ({"loss_fn": cross_entropy, "patience": 0}, "patience must be at least 1"),
        ({"loss_fn": cross_entropy, "teacher_weight": 1.5}, "teacher_weight must be between 0 and 1"),
        ({"loss_fn": cross_entropy, "temperature": 0}, "temperature must be a positive number"),
        ({"loss_fn": lambda out, batch: out}, r"a tensor with one number, got one of shape \[40, 5\]"),
        ({"loss_fn": lambda out, batch: 3.0}, "a tensor with one number, got a float"),
        ({"loss_fn": lambda out, batch: out.detach().sum()}, "does not depend on any parameter"),
        ({"loss_fn": cross_entropy, "batches": Data(x=X, y=Y)}, "needs 'edge_index'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_trained_is_refused(options, message):
    given = {"batches": DATA, **options, **quiet}
    with pytest.raises(InputError, match=message):
        finetune(pruned(), **given)


def test_a_model_without_anything_to_train_is_refused():
    compiled = pruned().requires_grad_(False)
    with pytest.raises(InputError, match="there is nothing to train"):
        finetune(compiled, DATA, cross_entropy, **quiet)


def test_an_optimizer_of_the_model_before_pruning_is_refused():
    model = dense()
    with pytest.raises(InputError, match=r"transfer_optimizer\(optimizer, model, compiled\)"):
        finetune(pruned(model), DATA, cross_entropy, optimizer=torch.optim.Adam(model.parameters()), **quiet)


def test_a_model_is_not_its_own_teacher():
    compiled = pruned()
    with pytest.raises(InputError, match="the teacher is the model itself"):
        finetune(compiled, DATA, teacher=compiled, **quiet)


# A published graph ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["generated", "cora"] if STORED else ["generated"])
def test_accuracy_comes_back(name):
    """Train, prune three quarters away, distil on the training nodes, pick the epoch by the validation nodes."""
    data = prune_gnn.load_graph(name, STORED)
    model = SAGE(data.num_features, 32, int(data.y.max()) + 1)

    def accuracy(one, mask=data.val_mask):
        return float((one(data.x, data.edge_index).argmax(-1) == data.y)[mask].float().mean())

    def loss(output, batch):
        return F.cross_entropy(output[batch.train_mask], batch.y[batch.train_mask])

    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    finetune(model, data, loss, 40, optimizer=optimizer, validate=accuracy, **quiet)
    model.eval()
    compiled = upscale_fx.prune(model, 0.75)
    result = finetune(compiled, data, loss, 20, teacher=model, validate=accuracy, patience=10,
                      optimizer=transfer_optimizer(optimizer, model, compiled), **quiet)  # fmt: skip
    assert accuracy(compiled.eval()) == pytest.approx(result.history[result.best].score)
    assert result.history[result.best].score >= result.history[0].score
    assert accuracy(compiled) >= accuracy(model) - 0.05
