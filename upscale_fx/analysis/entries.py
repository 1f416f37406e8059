"""Entry nodes: raw inputs and results of barriers keep all channels in place; an entry gathers those that are read."""

from __future__ import annotations

import copy

from torch import Tensor, fx

from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.analysis.rectangles import Level
from upscale_fx.channels.relations import Barrier, Source
from upscale_fx.channels.relations.products import Recurrence
from upscale_fx.compiled import functions
from upscale_fx.compiled.check_inputs import check_inputs
from upscale_fx.compiled.inputs import TensorSpec
from upscale_fx.compiled.module import CompiledGNN, inputs_of


def initial_levels(flow: Dataflow) -> dict[fx.Node, Level]:
    """Return the levels at which the search for layouts starts: inputs and results of barriers keep all in place."""
    fixed = [node for node, relation in flow.relations.items() if isinstance(relation, Source | Barrier | Recurrence)]
    return {node: Level.IDENTITY for node in fixed if node.op != "get_attr"}


def with_entries(gm: CompiledGNN) -> CompiledGNN:
    """Return a copy of the graph that reads raw inputs and results of barriers through ``entry`` nodes.

    These values keep all channels in place. An entry gathers the channels that are read, in the order its readers need.
    """
    new = copy.deepcopy(gm)
    flow = analyse(new)
    inputs = [name for name, spec in inputs_of(new).arguments.items() if isinstance(spec, TensorSpec)]
    for node in flow.nodes:
        given = node.op == "placeholder" and node.target in inputs
        if given or (isinstance(flow.relations.get(node), Barrier | Recurrence) and _is_wide(flow, node)):
            _read_through_entry(new.graph, node)
    new.recompile()
    return new


def _is_wide(flow: Dataflow, node: fx.Node) -> bool:
    """Whether a value is a feature: floating-point, with rows and with several channels."""
    value, axes = flow.values[node][0], flow.axes[node]
    return isinstance(value, Tensor) and value.is_floating_point() and axes.count > 1 and None in axes.sizes


def _read_through_entry(graph: fx.Graph, node: fx.Node) -> None:
    users = [user for user in node.users if user.target is not check_inputs and user.op != "output"]
    if not users:
        return
    after = node.next
    while after.op == "placeholder" or after.target is check_inputs:
        after = after.next
    with graph.inserting_before(after):
        entry = graph.call_function(functions.entry, (node,))
    entry.meta = dict(node.meta)
    for user in users:
        user.replace_input_with(node, entry)
