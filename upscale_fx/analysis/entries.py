"""Entry nodes: raw inputs and results of barriers keep all channels in place; an entry gathers those that are read."""

from __future__ import annotations

import copy

from torch import Tensor, fx

from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.channels.rectangles import Level
from upscale_fx.channels.relations import Barrier, Source
from upscale_fx.channels.relations.products import Recurrence
from upscale_fx.compiled import functions
from upscale_fx.compiled.check_inputs import check_inputs
from upscale_fx.compiled.inputs import TensorSpec
from upscale_fx.compiled.module import CompiledGNN, inputs_of, over_same_parameters
from upscale_fx.compiled.record.nodes import copied_graph


def initial_levels(flow: Dataflow) -> dict[fx.Node, Level]:
    """Return the levels at which the search for layouts starts: inputs and results of barriers keep all in place."""
    fixed = [node for node, relation in flow.relations.items() if isinstance(relation, Source | Barrier | Recurrence)]
    return {node: Level.IDENTITY for node in fixed if node.op != "get_attr"}


def with_entries(gm: CompiledGNN) -> CompiledGNN:
    """Return a copy of the graph that reads raw inputs and results of barriers through ``entry`` nodes.

    These values keep all channels in place. An entry gathers the channels that are read, in the order its readers need.
    """
    new = copy.deepcopy(gm)
    _insert_entries(analyse(new))
    new.recompile()
    return new


def analysed_with_entries(gm: CompiledGNN) -> Dataflow:
    """Return the analysis of a graph :func:`with_entries` that shares the parameters of ``gm``; only for reading."""
    new = over_same_parameters(gm, copied_graph(gm.graph))
    flow = analyse(new)
    values = dict(flow.values)
    values.update({entry: values[node] for node, entry in _insert_entries(flow).items()})
    return analyse(new, {node: values[node] for node in new.graph.nodes})


def _insert_entries(flow: Dataflow) -> dict[fx.Node, fx.Node]:
    """Make all readers of raw inputs and of barriers' results read an entry instead; return the entry of each."""
    graph, found = flow.module.graph, {}
    inputs = [name for name, spec in inputs_of(flow.module).arguments.items() if isinstance(spec, TensorSpec)]
    for node in flow.nodes:
        given = node.op == "placeholder" and node.target in inputs
        if given or (isinstance(flow.relations.get(node), Barrier | Recurrence) and _is_wide(flow, node)):
            entry = _read_through_entry(graph, node)
            if entry is not None:
                found[node] = entry
    return found


def _is_wide(flow: Dataflow, node: fx.Node) -> bool:
    """Whether a value is a feature: floating-point, with rows and with several channels."""
    value, axes = flow.values[node][0], flow.axes[node]
    return isinstance(value, Tensor) and value.is_floating_point() and axes.count > 1 and None in axes.sizes


def _read_through_entry(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    users = [user for user in node.users if user.target is not check_inputs and user.op != "output"]
    if not users:
        return None
    after = node.next
    while after.op == "placeholder" or after.target is check_inputs:
        after = after.next
    with graph.inserting_before(after):
        entry = graph.call_function(functions.entry, (node,))
    entry.meta = dict(node.meta)
    for user in users:
        user.replace_input_with(node, entry)
    return entry
