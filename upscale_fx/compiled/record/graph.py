"""The record of a compiled graph: everything it holds besides nodes and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from upscale_fx.compiled.guards.listed_nodes import ListedNode
from upscale_fx.compiled.inputs import ModelInputs
from upscale_fx.compiled.record.nodes import NodeRecord
from upscale_fx.compiled.record.origin import Origin
from upscale_fx.compiled.record.precision import Precision
from upscale_fx.compiled.record.pruning import KeptChannels, PruningRecord, TracedModel

#: Why a graph is right in ``eval()`` only after running statistics became constants.
EVAL_ONLY_INFERENCE = (
    "it was optimized with inference=True, which takes dropout and running statistics as they are in eval(); optimize "
    "without it to train"
)


#: The key of the record in the ``meta`` of a graph.
RECORD = "upscale_fx"


@dataclass(frozen=True)
class GraphRecord:
    """What passes and reports know about a graph; a pass that changes it makes a new record (``replace``).

    Attributes:
        inputs: the arguments it was traced with.
        name: the class of the model it was traced from.
        model: sizes of that model; None if the graph was never compared with it.
        eval_only: why the graph is right in ``eval()`` only; empty if it is right in both modes.
        eval_parts: paths of the parts that must stay in ``eval()``, if it is right in all modes of the others; empty
            if all parts must.
        parts: by path of a module of the model, the first path that it is known under.
        after_switch: by path of a module and mode, the modes that its own ``train(mode)`` gives to modules under it
            where they differ from ``mode``.
        pruning: the channels removed so far, consumer by consumer; None before anything was removed.
        compacted: whether compaction chose the layout of its channels; compaction leaves such a graph as it is.
        unviewable: least number of readers that need a copy, because no order of the channels gives all readers a view.
        estimates: by name of a norm, how many of its channels the statistic was, and is, taken over.
        precision: how a cast to another dtype changed the outputs; None without a cast.
        origins: by name of a parameter that was cut or folded, where its entries come from.
        skipped_assertions: the source lines of assertions on tensor values, which the graph does not repeat.
        reads: names of parameters that several calls read in layouts of their own, each with a digest of these layouts.
        results: how objects are made of what the graph returns; None if it returns what forward() does.
        typed: entries of dictionaries that the traced graph reads, as (argument, type).
        lacking: combinations of these that a batch may lack, with the reason why not; empty if it may.
        any_order: whether types may be in another order in dictionaries.
        method: the method of the model that was traced.
        plain: after fusing, the nodes of the graph from before; channel analyses read these.
        fused: after fusing, a list of the nodes as they are then, which tells whether they were changed by hand later.
    """

    inputs: ModelInputs
    name: str = "model"
    model: TracedModel | None = None
    eval_only: str = ""
    eval_parts: tuple[str, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    after_switch: Mapping[str, Mapping[bool, Mapping[str, bool]]] = field(default_factory=dict)
    pruning: PruningRecord | None = None
    compacted: bool = False
    unviewable: int = 0
    estimates: Mapping[str, KeptChannels] = field(default_factory=dict)
    precision: Precision | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)
    skipped_assertions: tuple[str, ...] = ()
    reads: tuple[tuple[str, str], ...] = ()
    results: Any = None
    typed: frozenset[tuple[str, Any]] = frozenset()
    lacking: Mapping[frozenset[tuple[str, Any]], str] = field(default_factory=dict)
    any_order: bool = True
    method: str = "forward"
    plain: tuple[NodeRecord, ...] | None = None
    fused: tuple[ListedNode, ...] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphRecord:
        return self  # its fields never change in place

    @property
    def is_inference(self) -> bool:
        """Whether all parts of the graph are in ``eval()`` for ever."""
        return bool(self.eval_only) and (self.eval_only == EVAL_ONLY_INFERENCE or not self.eval_parts)

    def stays_in_eval(self, path: str) -> str:
        """Return why the part of a path must stay in ``eval()``; empty if it need not."""
        return self.eval_only if self.is_inference or path in self.eval_parts else ""
