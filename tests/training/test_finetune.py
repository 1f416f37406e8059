"""Fine-tuning: what it is trained towards, what is kept, and when it stops."""

import copy

import pytest
import torch
from torch import nn

import upscale_fx
from tests import zoo
from tests.selection import only
from tests.training.tuned import DATA, EDGES, X, cross_entropy, dense, loss_of, pruned, quiet
from upscale_fx.compiled.undisturbed import in_mode
from upscale_fx.errors import InputError, UpscaleError
from upscale_fx.models import SAGE, JKNet, SimpleGCN
from upscale_fx.training.distillation import distillation
from upscale_fx.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("seeded")


def kl_to(teacher, model):
    """By its definition, without torch's own."""
    with in_mode(teacher, training=False), in_mode(model, training=False), torch.no_grad():
        t, s = teacher(X, EDGES).double().softmax(-1), model(X, EDGES).double().softmax(-1)
    return float((t * (t / s).log()).sum(-1).mean())


# What it is trained towards ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", only([SAGE], [SimpleGCN, SAGE, JKNet]))
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
