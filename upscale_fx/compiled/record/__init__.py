"""The record of a compiled graph: one frozen dataclass, :class:`GraphRecord`, and the classes of its fields."""

from upscale_fx.compiled.record.graph import EVAL_ONLY_INFERENCE, GraphRecord
from upscale_fx.compiled.record.nodes import NodeRecord
from upscale_fx.compiled.record.origin import Origin
from upscale_fx.compiled.record.precision import Precision
from upscale_fx.compiled.record.pruning import (
    ConsumerRecord,
    KeptChannels,
    PruningRecord,
    TracedModel,
    UnmaskableRecord,
)
from upscale_fx.compiled.record.size import Size
from upscale_fx.compiled.record.trail import Trail, Trial

__all__ = [
    "EVAL_ONLY_INFERENCE",
    "ConsumerRecord",
    "GraphRecord",
    "KeptChannels",
    "NodeRecord",
    "Origin",
    "Precision",
    "PruningRecord",
    "Size",
    "TracedModel",
    "Trail",
    "Trial",
    "UnmaskableRecord",
]
