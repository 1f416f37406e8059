"""Texts about the barriers that keep channels, for reports."""

from __future__ import annotations

import torch
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.relations import Barrier, Contraction, Relation
from upscale_fx.channels.relations.convolutions import Convolution
from upscale_fx.channels.relations.products import Product, Recurrence
from upscale_fx.channels.rules.registry import call_of
from upscale_fx.compiled.calls import target_name

#: Relations that need not read all channels: their weights may be zero.
_LAYERS = (Contraction, Convolution, Product, Recurrence)


def barriers(flow: Dataflow) -> list[str]:
    """Describe each barrier that keeps channels, with its operation and source line.

    Recurrent states are among them. A final softmax, or another function from channels to as many, is not if no layer
    reads it: the outputs of the model need its channels anyway.
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
        where = ", ".join(filter(None, (_operation(flow, node), node.meta.get("module"), node.meta.get("source"))))
        texts.append(f"{node.name} ({where}): {relation.reason}")
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

    A recurrent module keeps those of its states.
    """
    if isinstance(relation, Recurrence):
        return True
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
