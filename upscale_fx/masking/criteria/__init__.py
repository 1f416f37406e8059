"""Importance criteria: scores of a consumer's input channels; the channels with the lowest scores are removed first.

Criteria without data are callables ``(weight [out, in], name) -> scores [in]``. Two more kinds need calibration data:
those that read the reconstruction errors of layers (:class:`ReconstructionCriterion`: obs, lasso, activation), and
those that run the model themselves (:class:`OutputCriterion`: taylor, hrank).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor

from upscale_fx.errors import PatternError
from upscale_fx.masking.criteria.activation import Activation
from upscale_fx.masking.criteria.geometric import fpgm
from upscale_fx.masking.criteria.hrank import HRank
from upscale_fx.masking.criteria.kinds import OutputCriterion, ReconstructionCriterion
from upscale_fx.masking.criteria.lamp import lamp
from upscale_fx.masking.criteria.lasso import LASSO
from upscale_fx.masking.criteria.magnitude import l1, l2
from upscale_fx.masking.criteria.obs import OBS
from upscale_fx.masking.criteria.random import random
from upscale_fx.masking.criteria.taylor import Taylor

Criterion = Callable[[Tensor, str], Tensor]

#: Criteria by name.
CRITERIA: dict[str, Criterion] = {"l1": l1, "l2": l2, "lamp": lamp, "fpgm": fpgm, "random": random}
#: Criteria by name that need calibration data.
CALIBRATED: dict[str, Callable[[], ReconstructionCriterion | OutputCriterion]] = {
    "obs": OBS,
    "lasso": LASSO,
    "activation": Activation,
    "taylor": Taylor,
    "hrank": HRank,
}


def resolve_criterion(
    criterion: object, calibrated: bool = False
) -> Criterion | ReconstructionCriterion | OutputCriterion:
    """A criterion by name, or itself; by default ``"l2"``, with calibration data ``"obs"``.

    Raises:
        PatternError: no criterion has that name, or it needs calibration data and there is none.
    """
    if criterion is None:
        return OBS() if calibrated else l2
    if isinstance(criterion, type) and criterion in (*CALIBRATED.values(),):
        criterion = criterion()
    if isinstance(criterion, str) and criterion in CALIBRATED:
        criterion = CALIBRATED[criterion]()
    if isinstance(criterion, ReconstructionCriterion | OutputCriterion):
        if not calibrated:
            name = type(criterion).__name__
            raise PatternError(
                f"the criterion {name} reads activations of the model: pass calibration=(x, edge_index), a Data object "
                f"or a loader. Without data choose from {sorted(CRITERIA)}"
            )
        return criterion
    if callable(criterion):
        return cast(Criterion, criterion)
    if not isinstance(criterion, str) or criterion not in CRITERIA:
        raise PatternError(
            f"unknown criterion {criterion!r}: choose from {sorted(CRITERIA)}, with calibration= also from "
            f"{sorted(CALIBRATED)}, or pass a callable (weight [out, in], name) -> scores [in]"
        )
    return CRITERIA[criterion]


__all__ = [
    "CALIBRATED",
    "CRITERIA",
    "LASSO",
    "OBS",
    "Activation",
    "Criterion",
    "HRank",
    "OutputCriterion",
    "ReconstructionCriterion",
    "Taylor",
    "fpgm",
    "l1",
    "l2",
    "lamp",
    "random",
    "resolve_criterion",
]
