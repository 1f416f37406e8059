"""Provenance of channels: hidden values, or raw inputs."""

from __future__ import annotations

import numpy as np
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Mask
from upscale_fx.channels.relations import Barrier, Movement, Pointwise, Source
from upscale_fx.channels.relations.products import Product
from upscale_fx.channels.relations.regrouping import Regrouping
from upscale_fx.channels.rules.registry import call_of


def hidden(flow: Dataflow) -> dict[fx.Node, Mask]:
    """Return which positions hold hidden values: anything but raw inputs, moved, scaled or aggregated."""
    found: dict[fx.Node, Mask] = {}
    for node in flow.nodes:
        axes, relation = flow.axes.get(node), flow.relations.get(node)
        if axes is None or relation is None:
            continue
        if isinstance(relation, Source):
            found[node] = np.zeros(axes.count, dtype=bool)
        elif isinstance(relation, Pointwise):
            values = [f for f in relation.flows if f.source.op != "get_attr"]
            full = [f for f in values if len(f.index) == flow.axes[f.source].count]
            found[node] = np.zeros(axes.count, dtype=bool)
            for f in full or values:  # a factor that is broadcast scales a value; of an outer product, all are
                found[node] |= found[f.source][f.index]
        elif isinstance(relation, Movement):
            found[node] = np.zeros(axes.count, dtype=bool)
            for f in relation.flows:
                here = f.index >= 0
                found[node][here] |= found[f.source][f.index[here]]
        elif isinstance(relation, Product) and relation.positions[0].shape[-1] == 1:
            left, right, result = relation.positions  # summed over rows only: a dense adjacency matrix, a pooling
            found[node] = np.zeros(axes.count, dtype=bool)
            found[node][result] = found[relation.left][left] | found[relation.right][right].any(axis=1, keepdims=True)
        elif isinstance(relation, Regrouping):
            found[node] = np.logical_or.reduce(found[relation.source][relation.index], axis=0)
        elif isinstance(relation, Barrier):
            found[node] = np.full(
                axes.count, _mixes(flow, node, relation) or any(found[s].any() for s in relation.sources)
            )
        else:
            found[node] = np.ones(axes.count, dtype=bool)
    return found


def _mixes(flow: Dataflow, node: fx.Node, relation: Barrier) -> bool:
    """Whether a barrier is a layer with weights; a raw input stays raw after a norm."""
    if any(source.op == "get_attr" and len(flow.axes[source].wide) > 1 for source in relation.sources):
        return True
    call, _ = call_of(node, flow.values)
    if call.op != "call_module":
        return False
    return any(parameter.dim() > 1 for parameter in flow.module.get_submodule(str(call.target)).parameters())
