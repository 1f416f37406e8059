"""What keeps channels though no weight reads them: barriers, recurrent states, outputs; texts for reports."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow, read_by_value
from upscale_fx.channels.positions import Mask
from upscale_fx.channels.relations import Barrier, Contraction, Relation
from upscale_fx.channels.relations.convolutions import Convolution
from upscale_fx.channels.relations.products import Product, Recurrence
from upscale_fx.channels.rules.registry import call_of
from upscale_fx.compiled.calls import target_name

#: Relations that need not read all channels: their weights may be zero.
_LAYERS = (Contraction, Convolution, Product, Recurrence)


def barriers(flow: Dataflow) -> list[str]:
    """Describe each barrier that keeps channels, with its operation and source line.

    Recurrent states are among them where they cannot be removed. A final softmax, or another function from channels to
    as many, is not if no layer reads it: the outputs of the model need its channels anyway.
    """
    texts, read = [], _read_by_layers(flow)
    for node, relation in flow.relations.items():
        value = flow.values[node][0]
        structure = isinstance(value, torch.Tensor) and not (value.is_floating_point() or value.is_complex())
        if (
            structure
            or not holds_channels(flow, relation)
            or not (node in read or _changes_width(flow, node, relation))
        ):
            continue
        reason = relation.reason
        if isinstance(relation, Recurrence):
            reason = f"the states of a recurrent module all stay: {why_states_stay(flow, relation)}"
        where = ", ".join(filter(None, (_operation(flow, node), node.meta.get("module"), node.meta.get("source"))))
        texts.append(f"{node.name} ({where}): {reason}")
    return texts


def _read_by_layers(flow: Dataflow) -> set[fx.Node]:
    """The values that a layer reads, directly or through others."""
    read: set[fx.Node] = set()
    for node in reversed(list(flow.nodes)):
        relation = flow.relations.get(node)
        if relation is not None and (node in read or isinstance(relation, _LAYERS)):
            read.update(relation.reads)
    return read


def _changes_width(flow: Dataflow, node: fx.Node, relation: Relation) -> bool:
    """Whether a value has another number of channels than an operand, or comes from a module."""
    widths = {flow.axes[source].count for source in relation.reads if source in flow.axes}
    return node.op == "call_module" or widths != {flow.axes[node].count}


def holds_channels(flow: Dataflow, relation: Relation) -> bool:
    """Whether a barrier keeps channels: an operand is floating-point, has several channels and is no parameter.

    A recurrent module keeps those of its states where they cannot be removed.
    """
    if isinstance(relation, Recurrence):
        return bool(why_states_stay(flow, relation))
    if not isinstance(relation, Barrier):
        return False
    for source in relation.sources:
        value = flow.values[source][0]
        wide = isinstance(value, torch.Tensor) and value.is_floating_point() and flow.axes[source].count > 1
        if wide and source.op != "get_attr":
            return True
    return False


def _operation(flow: Dataflow, node: fx.Node) -> str:
    call, _ = call_of(node, flow.values)
    if call.op == "call_module":
        return type(flow.module.get_submodule(str(call.target))).__name__
    return target_name(call.target)


def why_states_stay(flow: Dataflow, relation: Recurrence) -> str:
    """Why the states of a recurrent module cannot be removed; empty if they can, where nothing reads them."""
    if relation.reason:
        return relation.reason
    path, module = relation.module, flow.module.get_submodule(relation.module)
    own = {id(parameter) for parameter in module.parameters()}
    names = {id(p): n for n, p in flow.module.named_parameters(remove_duplicate=False) if id(p) in own}
    count = sum(id(p) in own for _, p in flow.module.named_parameters(remove_duplicate=False))
    if count > len(names) or any(n.op == "get_attr" and str(n.target).startswith(f"{path}.") for n in flow.nodes):
        return "something else reads its weights too"
    calls = [node for node in flow.nodes if node.op == "call_module" and node.target == path]
    if not all(_is_taken_apart(flow, call) for call in calls):
        return "one of its calls is read as a whole, or is not covered by its rule"
    reasons = [r.reason for r in flow.relations.values() if isinstance(r, Recurrence) and r.module == path]
    return next(filter(None, reasons), "")


def _is_taken_apart(flow: Dataflow, call: fx.Node) -> bool:
    """Whether all readers of a call's tuple take tensors of it that the rule of recurrent modules describes."""
    for user in call.users:
        known = isinstance(flow.relations.get(user), Recurrence)
        if not known and not (call_of(user, flow.values)[1] and user not in flow.axes and _is_taken_apart(flow, user)):
            return False
    return True


def held(flow: Dataflow, layers: Collection[fx.Node]) -> dict[fx.Node, Mask]:
    """The positions of every value that outputs and operations need, whatever the weights of ``layers`` are.

    Args:
        flow: the analysed graph.
        layers: calls whose weights may become zero, so that they need nothing of what they multiply. Of a recurrent
            module, initial states are needed where states are.
    """
    asked = {node: np.ones(flow.axes[node].count, dtype=bool) for node in flow.outputs}
    for node in reversed(flow.nodes):
        relation = flow.relations.get(node)
        if relation is None:
            continue
        if node not in flow.axes:
            asked |= {source: np.ones(flow.axes[source].count, dtype=bool) for source in read_by_value(node, flow)}
            continue
        whole = isinstance(relation, Barrier) or (isinstance(relation, Recurrence) and bool(relation.reason))
        mask = asked.setdefault(node, np.full(flow.axes[node].count, whole))
        if node in layers and not isinstance(relation, Recurrence):
            continue
        for source, wanted in relation.need(mask, flow.nonzero) if mask.any() else ():
            own = wanted
            if isinstance(relation, Recurrence):
                own = _held_by_states(relation, source, mask, wanted, node in layers)
            asked[source] = asked[source] | own if source in asked else own.copy()
    return asked


def _held_by_states(relation: Recurrence, source: fx.Node, mask: Mask, wanted: Mask, is_layer: bool) -> Mask:
    """Which channels of an operand a recurrent module needs for the states ``mask`` of a result, beside its weights."""
    if relation.states is None or source not in relation.others:
        return np.zeros_like(wanted) if is_layer and source is relation.x else wanted
    place = relation.others.index(source)
    needed: Mask = np.isin(relation.initial[place], relation.states[mask])
    return needed
