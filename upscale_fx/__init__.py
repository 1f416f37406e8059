"""upscale_fx: a compiler for graph neural networks that removes the channels a model does not need, exactly."""

from upscale_fx import backend, criteria, memory, models, passes, rules
from upscale_fx.api import compact, mask, optimize, prune, trace
from upscale_fx.channels.rules import register
from upscale_fx.compat import MaskingManager, PruningManager
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.prepared import PreparedGraph
from upscale_fx.compiled.record.trail import Trail
from upscale_fx.compiled.structure.prepare import prepare
from upscale_fx.errors import (
    AmountError,
    CriterionError,
    EditedGraphError,
    EvaluationError,
    InputError,
    InternalError,
    ModeError,
    NothingToPruneError,
    PartError,
    PassError,
    PatternError,
    ServerError,
    StateError,
    TargetError,
    TraceError,
    UnsupportedError,
    UpscaleError,
    UpscaleWarning,
    VerificationError,
)
from upscale_fx.masking.allocation.budget import Budget
from upscale_fx.pruning.sweep import sweep
from upscale_fx.reports.diff import Diff, diff
from upscale_fx.reports.groups import Groups, groups
from upscale_fx.reports.inference_cost import InferenceCost, cost_per_node
from upscale_fx.reports.report import Report, report
from upscale_fx.reports.stages import StageTable, stages
from upscale_fx.reports.sweep_table import Sweep
from upscale_fx.reports.verify import verify
from upscale_fx.running.serving.server import Server
from upscale_fx.training.finetune import FinetuneResult, finetune
from upscale_fx.training.transfer_optimizer import transfer_optimizer

__version__ = "0.1.0"

__all__ = [
    "AmountError",
    "Budget",
    "CompiledGNN",
    "CriterionError",
    "Diff",
    "EditedGraphError",
    "EvaluationError",
    "FinetuneResult",
    "Groups",
    "InferenceCost",
    "InputError",
    "InternalError",
    "MaskingManager",
    "ModeError",
    "NothingToPruneError",
    "PartError",
    "PassError",
    "PatternError",
    "PreparedGraph",
    "PruningManager",
    "Report",
    "Server",
    "ServerError",
    "StageTable",
    "StateError",
    "Sweep",
    "TargetError",
    "TraceError",
    "Trail",
    "UnsupportedError",
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
    "memory",
    "models",
    "optimize",
    "passes",
    "prepare",
    "prune",
    "register",
    "report",
    "rules",
    "stages",
    "sweep",
    "trace",
    "transfer_optimizer",
    "verify",
]
