"""The forward and backward engines over the relations of :mod:`upscale_fx.channels`.

A channel (a position of a value) is *live* iff (1) some live use reads it and (2) it can be non-zero. ``nonzero`` computes
(2) forwards, ``needed`` computes (1) backwards, looking at (2) where a contraction reads. What ``needed`` returns is what the
compacted graph keeps: live channels, and what a rectangular shape or a barrier demands beside them.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor, fx

from upscale_fx.channels import Axes, Barrier, Mask, Movement, Pointwise, Positions, Relation, Source, axes_of
from upscale_fx.errors import UpscaleError
from upscale_fx.inputs import LARGE, SMALL, random_state
from upscale_fx.module import CompiledGNN
from upscale_fx.rules import relation_of
from upscale_fx.rules.registry import call_of


class Level(IntEnum):
    """How free a value's layout is. Where the rewriter cannot express a layout it raises the level and starts again."""

    RAGGED = 0  # the last wide axis may hold other channels in every cell of the axes before it (heads)
    GRID = 1  # one list of channels per axis
    IDENTITY = 2  # everything, in place


@dataclass
class Dataflow:
    """A graph with the relation and axes of every node."""

    module: fx.GraphModule
    values: dict[fx.Node, tuple[object, object]]
    relations: dict[fx.Node, Relation]
    axes: dict[fx.Node, Axes]
    nonzero: dict[fx.Node, Mask] = field(default_factory=dict)

    @property
    def nodes(self) -> list[fx.Node]:
        """All nodes in execution order."""
        return list(self.module.graph.nodes)

    @property
    def outputs(self) -> list[fx.Node]:
        """Tensor values the model returns."""
        output = next(n for n in reversed(self.module.graph.nodes) if n.op == "output")
        return [n for n in output.all_input_nodes if n in self.axes]


def example_values(module: CompiledGNN) -> dict[fx.Node, tuple[object, object]]:
    """Every node's value on the two example graphs, in eval mode and without gradients."""
    modes = {part: part.training for part in module.modules()}
    sides = [module.inputs.example(SMALL), module.inputs.example(LARGE)]
    results: list[dict[fx.Node, object]] = [{}, {}]
    try:
        for part in modes:
            part.training = False
        with torch.no_grad(), random_state(module):
            for arguments, found in zip(sides, results, strict=True):
                _run(module, arguments, found)
    finally:
        for part, mode in modes.items():
            part.training = mode
    return {node: (results[0][node], results[1][node]) for node in results[0]}


def _run(module: CompiledGNN, arguments: Mapping[str, object], found: dict[fx.Node, object]) -> None:
    interpreter = fx.Interpreter(module, garbage_collect_values=False)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            found[node] = arguments.get(str(node.target))
            continue
        args, kwargs = fx.node.map_arg(node.args, found.__getitem__), fx.node.map_arg(node.kwargs, found.__getitem__)
        try:
            found[node] = getattr(interpreter, node.op)(node.target, args, kwargs)
        except Exception as error:
            raise UpscaleError(f"node {node.name} ({node.meta.get('source', '')}) failed on an example graph: {error}") from error


def analyse(module: CompiledGNN) -> Dataflow:
    """Relations, axes and the forward analysis of a graph."""
    values = example_values(module)
    axes = {node: found for node, pair in values.items() if (found := axes_of(pair)) is not None}
    relations = {node: relation_of(node, values, module) for node in values if node.op != "output"}
    flow = Dataflow(module, values, relations, axes)
    flow.nonzero = nonzero(flow)
    return flow


def nonzero(flow: Dataflow) -> dict[fx.Node, Mask]:
    """Forward: which positions may be other than zero, for every finite input."""
    found: dict[fx.Node, Mask] = {}
    for node in flow.nodes:
        axes = flow.axes.get(node)
        if axes is None or node.op == "output":
            continue
        value = flow.values[node][0]
        if node.op == "get_attr" and isinstance(value, Tensor):
            found[node] = (value != 0).cpu().numpy().reshape(-1)
        else:
            found[node] = flow.relations[node].nonzero(axes.count, found)
    return found


def needed(flow: Dataflow, levels: Mapping[fx.Node, Level], blocks: Mapping[fx.Node, Positions]) -> dict[fx.Node, Mask]:
    """Backward: which positions each value keeps; a value without an entry is not computed at all."""
    asked: dict[fx.Node, Mask] = {node: np.ones(flow.axes[node].count, dtype=bool) for node in flow.outputs}
    present: set[fx.Node] = set(flow.nodes[-1].all_input_nodes)
    kept: dict[fx.Node, Mask] = {}
    for node in reversed(flow.nodes):
        if node.op == "output":
            continue
        relation, axes = flow.relations[node], flow.axes.get(node)
        if axes is None:
            if node in present:
                present.update(node.all_input_nodes)
                for source in _read_by_value(node, flow):
                    asked[source] = np.ones(flow.axes[source].count, dtype=bool)
            continue
        mask = asked.get(node, np.zeros(axes.count, dtype=bool))
        if not mask.any():
            if node not in present:
                continue
            mask[:1] = True
        mask = closure(mask, axes, levels.get(node, Level.RAGGED), blocks.get(node))
        kept[node] = mask
        for source, wanted in relation.need(mask, flow.nonzero):
            asked[source] = asked[source] | wanted if source in asked else wanted.copy()
        present.update(node.all_input_nodes)
    return kept


def _read_by_value(node: fx.Node, flow: Dataflow) -> list[fx.Node]:
    """Tensors that a result which is not one tensor depends on channel by channel: all of them, but for row sizes.

    The tensor elements of a tuple are described at their getitem, so the tuple itself asks for nothing.
    """
    if (node.op == "call_method" and node.target == "size") or node.target is getattr:
        return []  # row counts and dtypes
    if isinstance(flow.values[node][0], tuple | list | dict) and all(u.target is operator.getitem for u in node.users):
        plain = [u for u in node.users if u not in flow.axes and not isinstance(flow.values[u][0], tuple | list | dict)]
        if not plain:
            return []
    return [source for source in node.all_input_nodes if source in flow.axes]


def closure(mask: Mask, axes: Axes, level: Level, blocks: Positions | None) -> Mask:
    """The smallest rectangular superset of ``mask``: pads with the first free positions of a block or cell."""
    if level is Level.IDENTITY:
        return np.ones_like(mask)
    wide = axes.wide
    if level is Level.GRID and len(wide) > 1:
        grid = mask.reshape(axes.shape)
        result = np.ones(axes.shape, dtype=bool)
        for axis in wide:
            others = tuple(a for a in range(grid.ndim) if a != axis)
            result &= grid.any(axis=others, keepdims=True)
        return result.reshape(-1)
    if blocks is not None:
        mask = _level_out(mask, blocks)
    if len(wide) > 1:
        mask = _level_out(mask, cells(axes))
    return mask


def cells(axes: Axes) -> Positions:
    """The cell of each position: its place on all wide axes but the last."""
    last = axes.shape[axes.wide[-1]] if axes.wide else 1
    return np.arange(axes.count, dtype=np.int64) // last


def _level_out(mask: Mask, blocks: Positions) -> Mask:
    counts = np.bincount(blocks[mask], minlength=int(blocks.max()) + 1)
    widest = counts.max(initial=0)
    if np.all((counts == 0) | (counts == widest)):
        return mask
    mask = mask.copy()
    for block in np.flatnonzero((counts > 0) & (counts < widest)):
        free = np.flatnonzero((blocks == block) & ~mask)
        mask[free[: widest - counts[block]]] = True
    return mask


def head_blocks(flow: Dataflow) -> dict[fx.Node, Positions]:
    """The block (head) of each position, for values with several wide axes and the flat values that are views of them."""
    blocks: dict[fx.Node, Positions] = {}
    for node, axes in flow.axes.items():
        if len(axes.wide) > 1 and node.op != "get_attr" and not _is_stack_like(flow, node):
            blocks[node] = cells(axes)
    links = [
        (node, f.source)
        for node, relation in flow.relations.items()
        if isinstance(relation, Pointwise | Movement)
        for f in relation.ties()
        if f.is_identity and f.source.op != "get_attr" and len(f.index) == flow.axes[f.source].count
    ]
    changed = True
    while changed:
        changed = False
        for a, b in [*links, *reversed(links)]:
            for into, out in ((a, b), (b, a)):
                if out in blocks and _refines(blocks.get(into), blocks[out]):
                    blocks[into] = _refined(blocks.get(into), blocks[out])
                    changed = True
    return blocks


def _is_stack_like(flow: Dataflow, node: fx.Node) -> bool:
    """Stacked values ([C, L] or [L, C]): their parts are whole tensors, not heads."""
    relation = flow.relations[node]
    if isinstance(relation, Movement) and relation.how == "stack":
        return True
    if isinstance(relation, Pointwise):
        full = [f for f in relation.flows if f.is_identity and len(f.index) == flow.axes[f.source].count]
        return any(_is_stack_like(flow, f.source) for f in full)
    return isinstance(relation, Barrier)


def _refines(own: Positions | None, other: Positions) -> bool:
    return own is None or len(np.unique(np.stack([own, other]), axis=1).T) > len(np.unique(own))


def _refined(own: Positions | None, other: Positions) -> Positions:
    if own is None:
        return other
    return np.unique(np.stack([own, other]), axis=1, return_inverse=True)[1].reshape(-1).astype(np.int64)


def hidden(flow: Dataflow) -> dict[fx.Node, Mask]:
    """Which positions carry hidden values, that is, anything but a raw input moved, scaled or aggregated."""
    found: dict[fx.Node, Mask] = {}
    for node in flow.nodes:
        axes, relation = flow.axes.get(node), flow.relations.get(node)
        if axes is None or relation is None:
            continue
        if isinstance(relation, Source):
            found[node] = np.zeros(axes.count, dtype=bool)
        elif isinstance(relation, Pointwise):
            full = [f for f in relation.flows if f.source.op != "get_attr" and len(f.index) == flow.axes[f.source].count]
            found[node] = np.zeros(axes.count, dtype=bool)
            for f in full:
                found[node] |= found[f.source][f.index]
        elif isinstance(relation, Movement):
            found[node] = np.zeros(axes.count, dtype=bool)
            for f in relation.flows:
                here = f.index >= 0
                found[node][here] |= found[f.source][f.index[here]]
        elif isinstance(relation, Barrier):
            found[node] = np.full(axes.count, _mixes(flow, node, relation) or any(found[s].any() for s in relation.sources))
        else:
            found[node] = np.ones(axes.count, dtype=bool)
    return found


def _mixes(flow: Dataflow, node: fx.Node, relation: Barrier) -> bool:
    """Whether an opaque operation is a layer with weights of its own; a normalised raw input is still raw."""
    if any(source.op == "get_attr" and len(flow.axes[source].wide) > 1 for source in relation.sources):
        return True
    call, _ = call_of(node, flow.values)
    if call.op != "call_module":
        return False
    return any(parameter.dim() > 1 for parameter in flow.module.get_submodule(str(call.target)).parameters())
