"""upscale_fx: a compiler for graph neural networks that removes the channels a model does not need, exactly."""

from upscale_fx import backend, criteria, models, passes, rules
from upscale_fx.allocation.budget import Budget
from upscale_fx.api import compact, mask, optimize, prune, trace
from upscale_fx.compat import MaskingManager, PruningManager
from upscale_fx.diff import Diff, diff
from upscale_fx.errors import (
    AmountError,
    CriterionError,
    EvaluationError,
    InputError,
    ModeError,
    NothingToPruneError,
    PassError,
    PatternError,
    TargetError,
    TraceError,
    UpscaleError,
    UpscaleWarning,
    VerificationError,
)
from upscale_fx.finetune import FinetuneResult, finetune
from upscale_fx.groups import Groups, groups
from upscale_fx.inference_cost import InferenceCost, cost_per_node
from upscale_fx.module import CompiledGNN
from upscale_fx.prepare import prepare
from upscale_fx.prepared import PreparedGraph
from upscale_fx.report import Report, report
from upscale_fx.rules import register
from upscale_fx.sweep import sweep
from upscale_fx.sweep_table import Sweep
from upscale_fx.target import Trail
from upscale_fx.transfer_optimizer import transfer_optimizer
from upscale_fx.verify import verify

__version__ = "0.1.0"

__all__ = [
    "AmountError",
    "Budget",
    "CompiledGNN",
    "CriterionError",
    "Diff",
    "EvaluationError",
    "FinetuneResult",
    "Groups",
    "InferenceCost",
    "InputError",
    "MaskingManager",
    "ModeError",
    "NothingToPruneError",
    "PassError",
    "PatternError",
    "PreparedGraph",
    "PruningManager",
    "Report",
    "Sweep",
    "TargetError",
    "TraceError",
    "Trail",
    "UpscaleError",
    "UpscaleWarning",
    "VerificationError",
    "backend",
    "compact",
    "cost_per_node",
    "criteria",
    "diff",
    "finetune",
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
    "sweep",
    "trace",
    "transfer_optimizer",
    "verify",
]
