"""Texts about the barriers that keep channels, for reports."""

from __future__ import annotations

import torch
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.relations import Barrier
from upscale_fx.channels.rules.registry import call_of
from upscale_fx.compiled.calls import target_name


def barriers(flow: Dataflow) -> list[str]:
    """Describe each barrier that keeps channels, with its operation and source line."""
    texts = []
    for node, relation in flow.relations.items():
        value = flow.values[node][0]
        structure = isinstance(value, torch.Tensor) and not (value.is_floating_point() or value.is_complex())
        if structure or not isinstance(relation, Barrier) or not holds_channels(flow, node, relation):
            continue
        where = ", ".join(filter(None, (_operation(flow, node), node.meta.get("module"), node.meta.get("source"))))
        texts.append(f"{node.name} ({where}): {relation.reason}")
    return texts


def holds_channels(flow: Dataflow, node: fx.Node, relation: Barrier) -> bool:
    """Whether a barrier keeps channels: an operand is floating-point, has several channels and is no parameter."""
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
