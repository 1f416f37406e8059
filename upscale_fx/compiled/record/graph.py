"""Everything that a compiled graph carries with it, beside its nodes and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from upscale_fx.compiled.inputs import ModelInputs
from upscale_fx.compiled.record.nodes import NodeRecord
from upscale_fx.compiled.record.origin import Origin
from upscale_fx.compiled.record.precision import Precision
from upscale_fx.compiled.record.pruning import KeptChannels, PruningRecord, TracedModel

#: Why a graph is right in ``eval()`` only, where running statistics were taken for constants.
EVAL_ONLY_INFERENCE = (
    "it was optimized with inference=True, which takes dropout and running statistics as they are in eval(); optimize "
    "without it to train"
)


@dataclass(frozen=True)
class GraphRecord:
    """What passes and reports need to know of a graph; a pass that changes it makes another (``replace``).

    Attributes:
        inputs: the arguments it was traced with.
        name: the class of the model it was traced from.
        model: what that model held; None where the graph was never compared with it.
        eval_only: why the graph is right in ``eval()`` only; empty where it is right in both modes.
        pruning: what was removed so far, consumer by consumer; None before anything was.
        compacted: whether its channels were laid out by compaction, which leaves such a graph as it is.
        unviewable: how many readers can have no view in any order of the channels, at least.
        estimates: by the names of norms, over how many of their channels statistics are taken.
        precision: what a cast to another dtype changed; None without one.
        origins: by the names of parameters, where their entries come from; of those that were cut or folded.
        plain: after fusing, the nodes of the graph before it, which is what channel analyses read.
    """

    inputs: ModelInputs
    name: str = "model"
    model: TracedModel | None = None
    eval_only: str = ""
    pruning: PruningRecord | None = None
    compacted: bool = False
    unviewable: int = 0
    estimates: Mapping[str, KeptChannels] = field(default_factory=dict)
    precision: Precision | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)
    plain: tuple[NodeRecord, ...] | None = None
