"""What must hold of every program: what is traced, compacted or pruned computes what the model or the mask computes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

import upscale_fx
from tests.random_models.graphs import EXAMPLES, OTHERS
from tests.random_models.program import Program
from upscale_fx.reports.steady_dropout import steady_dropout

TOLERANCE = 1e-9


def documented(program: Program, error: upscale_fx.UpscaleError) -> bool:
    """Whether a program may be refused: a row count that is rounded, which docs/limits.md names."""
    return isinstance(error, upscale_fx.TraceError) and any("//" in line for line in program.lines)


def runs(program: Program, model: nn.Module) -> bool:
    """Whether the model itself is sound: it runs and its outputs are finite."""
    with torch.no_grad():
        result = model(*copy.deepcopy(EXAMPLES[program.hetero]))
    return all(leaf.isfinite().all() for leaf in pytree.tree_leaves(result))


def traced_and_compacted(program: Program) -> str:
    """Trace and compact a model with zeros in it; says how it went."""
    model = program.build()
    if not runs(program, model):
        return "not finite"
    try:
        traced = upscale_fx.trace(model, EXAMPLES[program.hetero])
    except upscale_fx.TraceError as error:
        if documented(program, error):
            return "refused"
        raise
    equal(program, model, traced, "traced")
    compacted = upscale_fx.compact(traced)
    equal(program, model, compacted, "compacted")
    equal_in_training(program, model, compacted)
    equal_gradients(program, model, compacted, "compacted")
    inference = upscale_fx.optimize(compacted, inference=True)
    equal(program, model, inference, "for inference")
    no_larger(model, compacted)
    no_larger(model, inference)
    return "compacted" if count(compacted) < count(traced) else "as large as it was"


def pruned_and_masked(program: Program, amount: float | dict[str, float], **options: Any) -> str:
    """Prune and mask a model the same way; says how it went."""
    model = program.build()
    if not runs(program, model):
        return "not finite"
    before = copy.deepcopy(model.state_dict())
    options["example_inputs"] = EXAMPLES[program.hetero]
    try:
        masked = upscale_fx.mask(model, amount, **options)
    except upscale_fx.TraceError as error:
        if documented(program, error):
            return "refused"
        raise
    except upscale_fx.PatternError:
        return "no such consumer"
    except upscale_fx.NothingToPruneError:
        return nothing_to_prune(model, amount, options)
    after = masked.state_dict()  # other names: weights that were masked before, whose masks are theirs now
    changed = any(name not in before or not torch.equal(before[name], value) for name, value in after.items())
    assert changed or program.zeros, "mask returned the model as it was"
    try:
        pruned = upscale_fx.prune(model, amount, **options)
    except upscale_fx.NothingToPruneError:  # masked, but padding and barriers keep every channel
        return "masked, not pruned"
    equal(program, masked, pruned, "pruned")
    equal_in_training(program, masked, pruned)
    equal_gradients(program, masked, pruned, "pruned")
    no_larger(model, pruned)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items()), "model was changed"
    return "pruned"


def nothing_to_prune(model: nn.Module, amount: float | dict[str, float], options: dict[str, Any]) -> str:
    """What mask refuses, prune refuses."""
    try:
        upscale_fx.prune(model, amount, **options)
    except upscale_fx.NothingToPruneError:
        return "nothing to prune"
    raise AssertionError("mask found nothing to prune and prune did")


def equal(program: Program, model: nn.Module, other: nn.Module, what: str) -> None:
    """Both compute the same on graphs that neither was made with."""
    with torch.no_grad():
        for graph in OTHERS[program.hetero]:
            expected, found = model(*copy.deepcopy(graph)), other(*copy.deepcopy(graph))
            same(expected, found, f"{what}, {len(graph[4])} nodes")


def equal_in_training(program: Program, model: nn.Module, other: nn.Module) -> None:
    """In train(), and with some parts in eval(): batch norms use the statistics of the batch; dropouts scale."""
    try:
        model, other = copy.deepcopy(model).train(), copy.deepcopy(other).train()
    except upscale_fx.ModeError:
        return  # says itself that it cannot be trained
    graph = OTHERS[program.hetero][0]
    fresh = copy.deepcopy((model, other))
    with torch.no_grad(), steady_dropout():
        same(model(*copy.deepcopy(graph)), other(*copy.deepcopy(graph)), "in train()")
        if calls_a_norm_twice(program, model):  # a dead call of one, which a graph leaves out, counts in its statistics
            model, other = fresh
        parts = [name for name, part in model.named_children()]
        for name in [name for number, name in enumerate(parts) if program.draw >> number % 16 & 1]:
            for each in (model, other):
                each.get_submodule(name).eval()
        same(model(*copy.deepcopy(graph)), other(*copy.deepcopy(graph)), "with parts in eval()")


def calls_a_norm_twice(program: Program, model: nn.Module) -> bool:
    """Whether several calls share a batch norm, or a part with one."""
    parts = [name for name, part in model.named_children() if any(isinstance(p, _BatchNorm) for p in part.modules())]
    return any(sum(line.count(f"self.{name}(") for line in program.lines) > 1 for name in parts)


def equal_gradients(program: Program, model: nn.Module, other: nn.Module, what: str) -> None:
    """Gradients of edge features end where they end in the model; promised where they are finite."""
    graph = OTHERS[program.hetero][0]
    expected, found = (input_gradient(each, copy.deepcopy(graph)) for each in (model, other))
    if expected.isfinite().all():
        same(expected, found, f"gradient, {what}")


def input_gradient(model: nn.Module, graph: tuple[Any, ...]) -> torch.Tensor:
    """The gradient of the edge features; zeros where there is none, since dead channels may be all that has one."""
    attributes = graph[2].requires_grad_()
    outputs = [leaf for leaf in pytree.tree_leaves(model(*graph)) if leaf.requires_grad]
    if outputs:
        torch.autograd.backward([sum(leaf.sin().sum() for leaf in outputs)])
    return torch.zeros_like(attributes) if attributes.grad is None else attributes.grad


def same(expected: Any, found: Any, what: str) -> None:
    """Outputs agree in structure, shape and, relative to the largest, value; promised where they are finite."""
    assert pytree.tree_structure(expected) == pytree.tree_structure(found), f"{what}: another structure"
    for a, b in zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True):
        assert a.shape == b.shape, f"{what}: shape {list(a.shape)} -> {list(b.shape)}"
        if not a.isfinite().all():
            continue
        gap = (a - b).abs().max().item() / max(1.0, a.abs().max().item()) if a.numel() else 0.0
        assert gap <= TOLERANCE, f"{what}: WRONG OUTPUT by {gap:.3g}"


def count(model: nn.Module) -> int:
    """Numbers in parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def no_larger(model: nn.Module, made: nn.Module) -> None:
    """Parameters never grow."""
    assert count(made) <= count(model), f"parameters grew: {count(model)} -> {count(made)}"
