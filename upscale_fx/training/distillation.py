"""Training objectives: the user's loss, the outputs of a teacher, or both.

Distillation is that of Hinton et al. (2015, arXiv:1503.02531, section 2): with temperature ``T``, the loss of a row is
``T^2 KL(softmax(t / T) || softmax(s / T))`` of the teacher's logits ``t`` and the student's ``s``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data.data import BaseData

from upscale_fx.compiled.batches import Transform, arguments_of
from upscale_fx.compiled.module import CompiledGNN, record_of
from upscale_fx.compiled.objects.results import tensors_of
from upscale_fx.compiled.signatures import with_entry
from upscale_fx.errors import InputError

Loss = Callable[[Any, Any], Tensor]


def distillation(student: Any, teacher: Any, temperature: float = 1.0) -> Tensor:
    """The distance of an output from a teacher's, summed over all floating-point tensors in it.

    For tensors ``[..., C > 1]`` it is the mean over rows of the loss in the module docstring; for ``C = 1`` and for
    vectors the mean squared difference.

    Args:
        student: a tensor ``[..., C]``, or tuples, lists, dictionaries and objects of them.
        teacher: the output to match, of the same structure.
        temperature: ``T``.

    Raises:
        InputError: the outputs differ in the number or shapes of their tensors, or have no floating-point tensor.
    """
    outputs, targets = tensors_of(student), tensors_of(teacher)
    shapes = [[list(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)] for leaves in (outputs, targets)]
    if len(outputs) != len(targets) or shapes[0] != shapes[1]:
        raise InputError(
            f"the outputs have shapes {shapes[0]}, those of the teacher {shapes[1]}: they cannot be matched"
        )
    losses = [_divergence(s, t, temperature) for s, t in zip(outputs, targets, strict=True) if _is_matched(s)]
    if not losses:
        raise InputError(
            "the model returns no floating-point tensor that could be matched to a teacher's; pass loss_fn"
        )
    return torch.stack(losses).sum()


def _is_matched(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    teacher = teacher.detach().to(student)
    if student.dim() < 2 or student.shape[-1] == 1:
        return F.mse_loss(student, teacher)
    s, t = (F.log_softmax(x.reshape(-1, x.shape[-1]) / temperature, dim=-1) for x in (student, teacher))
    return F.kl_div(s, t, reduction="batchmean", log_target=True) * temperature**2


@dataclass(frozen=True)
class Objective:
    """The loss of a batch: the user's, distillation, or both; see :func:`upscale_fx.training.finetune.finetune`."""

    model: nn.Module
    loss_fn: Loss | None
    teacher: nn.Module | None
    teacher_weight: float
    temperature: float
    transform: Transform | None

    def __post_init__(self) -> None:
        if self.loss_fn is None and self.teacher is None:
            raise InputError("there is nothing to train towards: pass loss_fn(output, batch), a teacher, or both")
        if self.teacher is self.model:
            raise InputError("the teacher is the model itself; pass the model it was pruned from")

    def __call__(self, batch: Any) -> Tensor:
        """The loss of one batch, a tensor without axes."""
        inputs = batch if self.transform is None else self.transform(batch)  # once: it may draw random numbers
        output = _called(self.model, inputs)
        task_loss = None if self.loss_fn is None else _scalar(self.loss_fn(output, batch))
        if self.teacher is None:
            assert task_loss is not None
            return task_loss
        with torch.no_grad():
            target = _called(_same_method(self.teacher, self.model), inputs)
        matched = distillation(output, target, self.temperature)
        return matched if task_loss is None else (1 - self.teacher_weight) * task_loss + self.teacher_weight * matched


def _called(model: nn.Module, inputs: Any) -> Any:
    """The output of a model for a batch, which stays as it is: a model may set attributes of a Data object."""
    args, kwargs = arguments_of(inputs, model)
    return model(*map(_own, args), **{name: _own(value) for name, value in kwargs.items()})


def _own(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, BaseData) else value


def _same_method(teacher: nn.Module, model: nn.Module) -> nn.Module:
    """The teacher, with the method as its ``forward`` that the graph was traced from."""
    if isinstance(model, CompiledGNN) and not isinstance(teacher, CompiledGNN):
        return with_entry(teacher, record_of(model).method)
    return teacher


def _scalar(value: Any) -> Tensor:
    """A loss as a tensor without axes; raises InputError unless it is one number."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.reshape(())
    kind = f"one of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise InputError(f"loss_fn must return a tensor with one number, got {kind}")
