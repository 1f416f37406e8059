"""Labels of calibration batches, and the default loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from upscale_fx.compiled.signatures import signature_of
from upscale_fx.errors import InputError

#: Entries of a dictionary batch for the loss, not for the model.
_LABELS = ("y", "train_mask")
_REMEDY = "criterion=upscale_fx.criteria.Taylor(lambda output, batch: ...), a function to a tensor with one number"


def without_labels(batch: Any, model: nn.Module) -> Any:
    """The batch; a dictionary without ``y`` and ``train_mask``, unless forward() takes them."""
    if not isinstance(batch, Mapping) or "y" not in batch:
        return batch
    parameters = signature_of(model).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return batch
    return {name: value for name, value in batch.items() if name not in _LABELS or name in parameters}


def cross_entropy(output: Any, batch: Any) -> Tensor:
    """Mean cross-entropy of logits ``[rows, classes]`` with the batch's labels ``y [rows]``; labels of -1 do not count.

    If a batch has a ``train_mask [rows]``, only its rows count; if a neighbour sampler made it, only its seeds do.

    Raises:
        InputError: the batch has no labels, or they are not classes of the output's rows.
    """
    labels, mask, seeds = _labels(batch)
    if labels is None:
        raise InputError(
            f"the criterion 'taylor' needs labels, and a {type(batch).__name__} batch has none: pass a Data object "
            f"with y, a dictionary with 'y' besides the arguments, or a loss of your own, {_REMEDY}"
        )
    if not isinstance(output, Tensor) or output.dim() != 2:
        returned = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise InputError(
            f"the criterion 'taylor' takes logits [rows, classes], the model returns {returned}: pass {_REMEDY}"
        )
    labels = labels.to(output.device)
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    whole = len(labels)
    if seeds is not None and len(output) in (whole, seeds):
        output, labels = output[:seeds], labels[:seeds]
        mask = None if mask is None else mask[:seeds]
    if labels.dim() != 1 or labels.is_floating_point() or len(labels) != len(output):
        raise InputError(
            f"the criterion 'taylor' takes labels y [rows] of whole numbers for logits {list(output.shape)}, got "
            f"{list(labels.shape)} of {labels.dtype}: pass {_REMEDY}"
        )
    known = labels >= 0
    if mask is not None and mask.shape == labels.shape:
        known &= mask.to(known)
    if not bool(known.any()):
        raise InputError(
            f"the criterion 'taylor': no row of a batch has a label; check y and train_mask, or pass {_REMEDY}"
        )
    if int(labels[known].max()) >= output.shape[1]:
        raise InputError(
            f"the criterion 'taylor': y holds class {int(labels[known].max())}, the model returns {output.shape[1]} "
            f"logits; check y, or pass {_REMEDY}"
        )
    return F.cross_entropy(output[known], labels[known].long())


def _labels(batch: Any) -> tuple[Tensor | None, Tensor | None, int | None]:
    """Labels, training rows, and the number of seeds of a batch; None for what it does not have."""
    if isinstance(batch, Data):
        entries = {name: batch[name] for name in (*_LABELS, "batch_size") if name in batch}
    else:
        entries = {name: batch[name] for name in _LABELS if name in batch} if isinstance(batch, Mapping) else {}
    labels, mask, seeds = entries.get("y"), entries.get("train_mask"), entries.get("batch_size")
    mask = mask if isinstance(mask, Tensor) and mask.dtype == torch.bool else None
    return labels if isinstance(labels, Tensor) else None, mask, seeds if isinstance(seeds, int) else None
