"""When two results, or two models, are the same, and how large a model is."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import upscale_fx


def assert_same(expected: Any, found: Any, tolerance: float = 1e-10, where: str = "") -> None:
    """Assert that two results are built alike and equal.

    Tensors may differ by ``tolerance`` of their largest value, 1e-3 at least; whatever else they hold is equal.
    ``where`` is named in the message. The reference must be finite, or the comparison would mean nothing.
    """
    assert pytree.tree_structure(expected) == pytree.tree_structure(found), where
    for a, b in zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True):
        if not isinstance(a, torch.Tensor):
            assert a == b, where
            continue
        assert a.isfinite().all(), f"{where}: the reference itself must be finite"
        largest = float(a.detach().abs().max()) if a.numel() else 0.0
        torch.testing.assert_close(b, a, rtol=0.0, atol=tolerance * max(largest, 1e-3), msg=lambda m: f"{where}: {m}")


def assert_same_outputs(
    model: nn.Module, other: nn.Module, calls: Iterable[Sequence[Any]], tolerance: float = 1e-10
) -> None:
    """Assert that two models give the same for the arguments of every call."""
    for number, arguments in enumerate(calls):
        assert_same(model(*arguments), other(*arguments), tolerance, f"call {number}")


def assert_pruned_exactly(model: nn.Module, example: Sequence[Any], calls: Sequence[Sequence[Any]]) -> None:
    """Assert that a trace does what its model does in every call, and a smaller pruned model what the mask does."""
    assert_same_outputs(model, upscale_fx.trace(model, example), calls)
    masked = upscale_fx.mask(model, 0.5, example_inputs=example)
    compiled = upscale_fx.prune(model, 0.5, example_inputs=example)
    assert_same_outputs(masked, compiled, calls)
    assert parameters(compiled) < parameters(model)
    assert upscale_fx.verify(masked, compiled, example) < 1e-10


def gap(expected: Any, found: Any) -> float:
    """The largest difference of two results, relative to the largest value of each tensor."""
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True)
    tensors = [(a.detach(), b.detach()) for a, b in pairs if torch.is_tensor(a) and a.numel()]
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-3)) for a, b in tensors)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a model's parameters and buffers."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def stored(model: nn.Module) -> set[str]:
    """Names of the parameters and buffers in a model's state: all but the digest of a graph's layout."""
    return {name for name in model.state_dict() if name.rpartition(".")[2] != "_extra_state"}


def same_state(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two states have the same names and, bit for bit, the same values."""
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def hooks(model: nn.Module) -> list[list[int]]:
    """The hooks of every module; torch has no public way to list them."""
    return [[*module._forward_hooks, *module._forward_pre_hooks] for module in model.modules()]


def parameters(model: nn.Module) -> int:
    """Numbers in a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
