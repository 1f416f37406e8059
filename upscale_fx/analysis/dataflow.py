"""Liveness of channels: the forward and backward analyses over the relations of :mod:`upscale_fx.channels.relations`.

A channel (a position of a value) is *live* iff (1) some live use reads it and (2) it can be non-zero. ``nonzero``
computes (2) forwards. ``needed`` computes (1) backwards, and uses (2) where a contraction reads. The compacted graph
keeps what ``needed`` returns: live channels, and those that a rectangular shape or a barrier requires in addition.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from upscale_fx.channels.positions import Axes, Mask, Positions, axes_of
from upscale_fx.channels.rectangles import Level, closure
from upscale_fx.channels.relations import Relation
from upscale_fx.channels.rules import relations_of
from upscale_fx.compiled.example_values import example_values
from upscale_fx.compiled.module import CompiledGNN


@dataclass
class Dataflow:
    """A graph with the example values, the relation and the axes of every node."""

    module: CompiledGNN
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
        """Tensor values that the model returns."""
        output = next(n for n in reversed(self.module.graph.nodes) if n.op == "output")
        return [n for n in output.all_input_nodes if n in self.axes]

    def substitute(self, node: fx.Node, by: fx.Node) -> None:
        """Replace a node by a new one that computes the same, everywhere."""
        by.meta = dict(node.meta)
        node.replace_all_uses_with(by)
        self.values[by] = self.values[node]
        if node in self.axes:
            self.axes[by] = self.axes[node]


def analyse(module: CompiledGNN, values: dict[fx.Node, tuple[object, object]] | None = None) -> Dataflow:
    """Return relations, axes and the forward analysis of a graph; ``values`` are the example values, if known."""
    values = example_values(module) if values is None else values
    axes = {n: found for n, pair in values.items() if n.op != "output" and (found := axes_of(pair)) is not None}
    flow = Dataflow(module, values, relations_of(values, axes, module), axes)
    flow.nonzero = nonzero(flow)
    return flow


def nonzero(flow: Dataflow) -> dict[fx.Node, Mask]:
    """Forward: return which positions may differ from zero for some finite input."""
    found: dict[fx.Node, Mask] = {}
    for node in flow.nodes:
        axes = flow.axes.get(node)
        if axes is None or node.op == "output":
            continue
        value = flow.values[node][0]
        if node.op == "get_attr" and isinstance(value, Tensor):
            may_change = isinstance(_owner(flow, node), _BatchNorm) and not isinstance(value, nn.Parameter)
            found[node] = (value != 0).cpu().numpy().reshape(-1) | may_change  # training updates statistics
        else:
            found[node] = flow.relations[node].nonzero(axes.count, found)
    return found


def _owner(flow: Dataflow, node: fx.Node) -> nn.Module:
    """Return the module that holds a parameter or buffer."""
    return flow.module.get_submodule(str(node.target).rpartition(".")[0])


def needed(
    flow: Dataflow,
    levels: Mapping[fx.Node, Level],
    blocks: Mapping[fx.Node, Positions],
    partial: Collection[fx.Node] = (),
) -> dict[fx.Node, Mask]:
    """Backward: return the positions that each value keeps; a value without an entry is not computed.

    ``partial`` calls drop operands of which they read nothing; all other calls need every operand.
    """
    asked: dict[fx.Node, Mask] = {node: np.ones(flow.axes[node].count, dtype=bool) for node in flow.outputs}
    present: set[fx.Node] = set(flow.nodes[-1].all_input_nodes)
    present.update(node for node in flow.nodes if node.op == "placeholder")
    kept: dict[fx.Node, Mask] = {}
    for node in reversed(flow.nodes):
        if node.op == "output":
            continue
        relation, axes = flow.relations[node], flow.axes.get(node)
        if axes is None:
            if node in present:
                present.update(node.all_input_nodes)
                for source in read_by_value(node, flow):
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
        present.update(s for s in node.all_input_nodes if node not in partial or s not in asked or asked[s].any())
    return kept


def reads_sizes(node: fx.Node) -> bool:
    """Whether a call reads only row counts or a dtype, no values."""
    return (node.op == "call_method" and node.target == "size") or node.target is getattr


def read_by_value(node: fx.Node, flow: Dataflow) -> list[fx.Node]:
    """Return the tensors that a result other than one tensor reads: all operands, unless it reads sizes only.

    A tuple whose elements are tensors needs nothing itself, because their getitem nodes are described.
    """
    if reads_sizes(node):
        return []
    if isinstance(flow.values[node][0], tuple | list | dict) and all(u.target is operator.getitem for u in node.users):
        plain = [u for u in node.users if u not in flow.axes and not isinstance(flow.values[u][0], tuple | list | dict)]
        if not plain:
            return []
    return [source for source in node.all_input_nodes if source in flow.axes]
