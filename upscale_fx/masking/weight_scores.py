"""Scores of a consumer's channels from its weights only."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from upscale_fx.channels.positions import Scores
from upscale_fx.errors import CriterionError
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.masking.criteria import (
    Criterion,
    OutputCriterion,
    ReconstructionCriterion,
    l2,
    random,
    resolve_criterion,
)
from upscale_fx.masking.options import MaskOptions


def weight_criterion(options: MaskOptions) -> Criterion:
    """The criterion that scores weights; the l2 norm if the chosen one reads calibration data."""
    criterion = resolve_criterion(options.criterion, options.calibration is not None)
    if isinstance(criterion, ReconstructionCriterion | OutputCriterion):
        return l2
    return partial(random, seed=options.seed) if criterion is random else criterion


def weight_scores(criterion: Criterion, consumer: Consumer, root: nn.Module) -> Scores:
    """``[in]``: the scores of a consumer's channels.

    Raises:
        CriterionError: the criterion fails, or does not return one number for each channel.
    """
    weight = consumer.weight(root)
    where = f"for {consumer.name} (weight {list(weight.shape)})"
    try:
        returned = criterion(weight, consumer.name)
    except TypeError as error:
        raise CriterionError(f"the criterion failed {where}: {error}; it takes (weight [out, in], name)") from error
    try:
        scores = torch.as_tensor(returned)
    except (TypeError, ValueError, RuntimeError):
        kind = type(returned).__name__
        raise CriterionError(f"the criterion returned a {kind} {where}; expected scores [in]") from None
    if scores.shape != (consumer.count,):
        raise CriterionError(
            f"the criterion returned scores of shape {list(scores.shape)} {where}; expected [{consumer.count}], one "
            f"per input channel"
        )
    if bool(torch.isnan(scores.double()).any()):
        raise CriterionError(f"the criterion returned NaN {where}; its weights may hold NaN")
    return scores.detach().double().cpu().numpy()
