"""The Taylor criterion: the change of the loss, to first order, when a channel's weights become zero."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from upscale_fx.channels.positions import Numbers
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.undisturbed import in_mode, preserved_rng
from upscale_fx.errors import InputError
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.masking.criteria.labels import cross_entropy

if TYPE_CHECKING:
    from upscale_fx.analysis.dataflow import Dataflow
    from upscale_fx.masking.consumers.pools import Removal

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Taylor:
    """Drop the channels whose removal changes the loss least, by its gradient.

    A consumer's channel is a group of weights ``w`` with gradients ``g``. Without it the loss changes by minus the sum
    of ``w g``, to first order: the gradient by a gate on the consumer's read of the channel. Scores are the mean over
    batches of its square, as in Molchanov et al., "Importance estimation for neural network pruning" (CVPR 2019),
    in the variant with gates. The sum within a channel is signed, because the sum of ``|w g|`` would add changes that
    cancel in the output. (The earlier paper, "Pruning convolutional neural networks for resource efficient inference",
    ICLR 2017, takes absolute values per example instead of squares.) A model at a minimum of its loss on one batch has
    small gradients there, so several batches give better scores.

    Attributes:
        loss_fn: ``(output, batch) -> tensor with one number``; ``batch`` is the user's batch. By default the
            cross-entropy with the batch's labels: ``y`` of a Data object (on the rows of its ``train_mask`` if it
            has one), or ``"y"`` of a dictionary. Labels of -1 do not count.
    """

    loss_fn: Loss | None = None

    def observe(
        self, flow: Dataflow, removals: Sequence[Removal], batches: Iterable[tuple[Any, Mapping[str, Any]]], seed: int
    ) -> list[Numbers]:
        """Scores ``[in]`` for every consumer.

        Gradients are computed on a copy of the model, in ``eval()``, for frozen parameters too.

        Raises:
            InputError: labels are missing, the loss is not a number, or gradients are not finite.
        """
        assert isinstance(flow.module, CompiledGNN)
        consumers = [removal.consumer for removal in removals]
        targets = sorted({cut.target for consumer in consumers for cut in consumer.cuts})
        scores = [np.zeros(consumer.count) for consumer in consumers]
        count = 0
        with torch.inference_mode(False), torch.enable_grad(), in_mode(flow.module, False), preserved_rng(flow.module):
            model = copy.deepcopy(flow.module)
            parameters = [model.get_parameter(target).requires_grad_(True) for target in targets]
            for batch, arguments in batches:
                loss = self._loss(model, batch, arguments)
                gradients: Sequence[Tensor | None] = torch.autograd.grad(loss, parameters, allow_unused=True)
                changes = {
                    target: None if gradient is None else (parameter.detach() * gradient).double().reshape(-1).cpu()
                    for target, parameter, gradient in zip(targets, parameters, gradients, strict=True)
                }
                for number, consumer in enumerate(consumers):
                    scores[number] += np.square(_change(consumer, changes))
                count += 1
        return [score / max(count, 1) for score in scores]

    def _loss(self, model: CompiledGNN, batch: Any, arguments: Mapping[str, Any]) -> Tensor:
        try:
            output = model.forward(**arguments)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"the model fails on a calibration batch: {error}") from error
        loss: Any = (self.loss_fn or cross_entropy)(output, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            returned = f"one of shape {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise InputError(f"the loss of Taylor(loss_fn) must be a tensor with one number, got {returned}")
        if not loss.requires_grad:
            raise InputError("the loss of Taylor(loss_fn) depends on no parameter: do not detach the output")
        if not bool(torch.isfinite(loss)):
            raise InputError(
                f"calibration: the loss is {float(loss.detach())} for a batch; check the calibration data "
                f"(torch.isfinite), the model's weights and the loss function"
            )
        scalar: Tensor = loss.reshape(())
        return scalar


def _change(consumer: Consumer, changes: Mapping[str, Tensor | None]) -> Numbers:
    """``[in]``: the change of the loss without the entries of each channel, to first order and up to sign."""
    total = np.zeros(consumer.count)
    for cut in consumer.cuts:
        change = changes[cut.target]
        if change is not None:
            own = change.numpy()[np.maximum(cut.entries, 0)]
            total += np.where(cut.entries >= 0, own, 0.0).sum(axis=1)
    if not np.isfinite(total).all():
        raise InputError(
            f"calibration: the gradients of {consumer.name} hold NaN or infinite values; check the calibration data "
            f"(torch.isfinite) and the model's weights"
        )
    return total
