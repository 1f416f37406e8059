"""upscale_fx: a compiler for graph neural networks that removes the channels a model does not need, exactly."""

from upscale_fx import backend, criteria, models, passes, rules
from upscale_fx.api import compact, mask, optimize, prune, trace
from upscale_fx.compat import MaskingManager, PruningManager
from upscale_fx.diff import Diff, diff
from upscale_fx.errors import (
    AmountError,
    CriterionError,
    InputError,
    ModeError,
    NothingToPruneError,
    PassError,
    PatternError,
    TraceError,
    UpscaleError,
    UpscaleWarning,
    VerificationError,
)
from upscale_fx.groups import Groups, groups
from upscale_fx.module import CompiledGNN
from upscale_fx.prepare import prepare
from upscale_fx.prepared import PreparedGraph
from upscale_fx.report import Report, report
from upscale_fx.rules import register
from upscale_fx.verify import verify

__version__ = "0.1.0"

__all__ = [
    "AmountError",
    "CompiledGNN",
    "CriterionError",
    "Diff",
    "Groups",
    "InputError",
    "MaskingManager",
    "ModeError",
    "NothingToPruneError",
    "PassError",
    "PatternError",
    "PreparedGraph",
    "PruningManager",
    "Report",
    "TraceError",
    "UpscaleError",
    "UpscaleWarning",
    "VerificationError",
    "backend",
    "compact",
    "criteria",
    "diff",
    "groups",
    "mask",
    "models",
    "optimize",
    "passes",
    "prepare",
    "prune",
    "register",
    "report",
    "rules",
    "trace",
    "verify",
]
