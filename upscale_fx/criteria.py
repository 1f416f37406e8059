"""Criteria for choosing channels, for ``prune(criterion=...)``: see :mod:`upscale_fx.masking.criteria`."""

from upscale_fx.masking.criteria import (
    CALIBRATED,
    CRITERIA,
    LASSO,
    OBS,
    Activation,
    Criterion,
    HRank,
    OutputCriterion,
    ReconstructionCriterion,
    Taylor,
    fpgm,
    l1,
    l2,
    lamp,
    random,
    resolve_criterion,
)

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
