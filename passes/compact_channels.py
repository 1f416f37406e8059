"""Compaction: remove every channel that is not live, and put the others where their readers want them.

A channel is kept iff (1) a kept result reads it at a position where both it and the weight on it may be non-zero, or
(2) a rectangular shape (heads) or a barrier demands it. What is kept is ordered so that readers read slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from upscale_fx.analysis.dataflow import Dataflow, needed, nonzero
from upscale_fx.analysis.entries import analysed_with_entries, initial_levels
from upscale_fx.analysis.heads import head_blocks
from upscale_fx.analysis.identity import channel_ids
from upscale_fx.channels.positions import Mask, Positions
from upscale_fx.channels.rectangles import Level
from upscale_fx.channels.relations import Barrier, Source
from upscale_fx.compacting.independence import independent
from upscale_fx.compacting.layout import layout_of
from upscale_fx.compacting.order.ranking import Known, Ranking, rank_channels
from upscale_fx.compacting.rewrite import Misaligned, raise_first, rewrite
from upscale_fx.compacting.rewrite.ties import with_read_modules_whole
from upscale_fx.compacting.states import without_dead_states
from upscale_fx.compiled import functions
from upscale_fx.compiled.dead_nodes import drop_dead_nodes
from upscale_fx.compiled.module import CompiledGNN, note, record_of, stored_tensors
from upscale_fx.errors import PassError


@dataclass(frozen=True)
class CompactChannels:
    """Remove channels that are not live and reorder the rest; exact."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        narrowed = without_dead_states(gm)
        flow = analysed_with_entries(narrowed)
        if narrowed is gm and record_of(gm).compacted and keeps_everything(flow):
            return PassResult(gm, False)  # another order would do as well, but a compacted graph stays as it is
        # Where wider reads leave nothing to remove, copies may; a compacted graph has made that choice.
        for widen in (True,) if record_of(gm).compacted else (True, False):
            new = compact_channels(flow, widen)
            if _shapes(new) != _shapes(gm):
                return PassResult(_settled(new), True)
        return PassResult(gm, False)


def _settled(gm: CompiledGNN) -> CompiledGNN:
    """Compact again while that removes something: what padded a rectangle may be dead once the rectangle is smaller."""
    note(gm, compacted=True)
    narrowed = without_dead_states(gm)
    flow = analysed_with_entries(narrowed)
    if narrowed is gm and keeps_everything(flow):
        return gm
    new = compact_channels(flow)
    return _settled(new) if _shapes(new) != _shapes(gm) else gm


def _shapes(gm: CompiledGNN) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in stored_tensors(gm).items()}


def keeps_everything(flow: Dataflow) -> bool:
    """Whether no value has a channel to lose."""
    kept = needed(flow, initial_levels(flow), head_blocks(flow))
    values = [node for node in kept if node.op != "get_attr" and node.target is not functions.entry]
    return all(kept[node].all() for node in values) and set(kept) == set(flow.nonzero)


def compact_channels(flow: Dataflow, widen: bool = True) -> CompiledGNN:
    """Rewrite a graph so that only what is needed remains; values lose freedom until everything can be expressed.

    ``widen`` allows contractions to read more than they need where that is cheaper than a copy.
    """
    flow = with_read_modules_whole(flow)
    levels = initial_levels(flow)
    blocks = head_blocks(flow)
    known = Known(channel_ids(flow))
    for _ in range(3 * len(flow.nodes) + 3):
        kept = needed(flow, levels, blocks)
        ranking = rank_channels(flow, kept, widen, known)
        try:
            new = rewrite(flow, kept, layouts(flow, kept, levels, blocks, ranking), widen)
        except Misaligned as first:
            for problem in independent(first, flow, ranking.ids):
                if not _constrain(levels, problem, flow):
                    flow = _with_barriers(flow, problem)
                    levels |= initial_levels(flow)
                    known = Known(channel_ids(flow))
                    break
            continue
        drop_dead_nodes(new.graph)
        new.recompile()
        note(new, unviewable=max(ranking.unviewable, record_of(new).unviewable))
        return new
    raise PassError("compaction found no layouts that can be expressed")


def _constrain(levels: dict[fx.Node, Level], problem: Misaligned, flow: Dataflow) -> bool:
    """Take a degree of freedom from these values, else from their reader, else from their sources; False: none left."""
    reader = [problem.reader] if problem.reader is not None else []
    sources = [source for node in problem.nodes for source in flow.relations[node].reads]
    for candidates in (problem.nodes, reader, sources):
        free = [node for node in candidates if levels.get(node, Level.RAGGED) < Level.IDENTITY]
        for node in free:
            levels[node] = Level(levels.get(node, Level.RAGGED) + 1)
        if free:
            return True
    return False


def _with_barriers(flow: Dataflow, problem: Misaligned) -> Dataflow:
    """The same graph in which these values are barriers: nothing else is left that can be expressed."""
    nodes = [node for node in (*problem.nodes, problem.reader) if node is not None]
    nodes = [node for node in nodes if not isinstance(flow.relations[node], Barrier | Source)]
    if not nodes:
        raise PassError(f"no layout can be expressed for {problem}")
    relations = dict(flow.relations)
    for node in nodes:
        relations[node] = Barrier(tuple(s for s in node.all_input_nodes if s in flow.axes), "no layout expresses it")
    return replace(flow, relations=relations, nonzero=nonzero(replace(flow, relations=relations)))


def layouts(
    flow: Dataflow,
    kept: Mapping[fx.Node, Mask],
    levels: Mapping[fx.Node, Level],
    blocks: Mapping[fx.Node, Positions],
    ranking: Ranking,
) -> dict[fx.Node, Positions]:
    """The layout of every kept value that is not a parameter.

    Raises:
        Misaligned: a value's kept positions are not rectangular.
    """
    found: dict[fx.Node, Positions] = {}
    misaligned: list[Misaligned] = []
    for node, mask in kept.items():
        if node.op == "get_attr":
            continue
        axes = flow.axes[node]
        layout = layout_of(axes, mask, ranking.of(node, axes.count), levels.get(node, Level.RAGGED), blocks.get(node))
        if layout is None:
            misaligned.append(Misaligned(node, certain=True))
        else:
            found[node] = layout.copy()
    raise_first(misaligned)
    return found
