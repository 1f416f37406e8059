"""Attention products in a graph: a product of two operands, summed over channels.

Three kinds: *vector* (a learned vector times a value: GAT, GATv2), *product* (two values: q·k), and a vector that
meets the plain output of a linear layer, which is *foldable*: ``(x W) . a = x (W a)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import fx

from upscale_fx.channels import Flow, Positions
from upscale_fx.dataflow import Dataflow
from upscale_fx.relations import Contraction, Movement, Pointwise, Reduction


@dataclass(frozen=True)
class AttentionProduct:
    """``logits[h] = sum over c of left[h, c] * right[h, c]``.

    Attributes:
        logits: the reduction's node.
        relation: its relation; ``relation.index`` maps product positions to logits.
        vector: the flow of the learned vector into the product, or None for a product of two values.
        values: the flows of the values into the product.
    """

    logits: fx.Node
    relation: Reduction
    vector: Flow | None
    values: tuple[Flow, ...]


@dataclass(frozen=True)
class LinearOrigin:
    """Positions of a value are outputs of one linear layer, moved: ``outputs[p]`` is the output of position ``p``."""

    node: fx.Node
    relation: Contraction
    outputs: Positions


def attention_products(flow: Dataflow) -> Iterator[AttentionProduct]:
    """All attention products of a graph, in execution order."""
    for node in flow.nodes:
        relation = flow.relations.get(node)
        if not isinstance(relation, Reduction) or relation.how != "sum" or not relation.frees:
            continue
        product = flow.relations[relation.source]
        if not isinstance(product, Pointwise) or product.zero != "any" or len(product.flows) != 2:
            continue
        vectors = [f for f in product.flows if f.source.op == "get_attr"]
        values = tuple(f for f in product.flows if f.source.op != "get_attr")
        count = flow.axes[relation.source].count
        if any(flow.axes[f.source].count != count for f in values) or len(vectors) > 1:
            continue
        if vectors and flow.axes[vectors[0].source].count != count:
            continue
        yield AttentionProduct(node, relation, vectors[0] if vectors else None, values)


def linear_origin(flow: Dataflow, start: Flow, through_rows: bool) -> LinearOrigin | None:
    """Follow a value back through views (and gathers of rows, if asked) to the linear layer that made it."""
    node, outputs = start.source, start.index
    while True:
        relation = flow.relations[node]
        if isinstance(relation, Contraction):
            stored = relation.weight.op == "get_attr" and relation.batch == 1
            return LinearOrigin(node, relation, outputs) if stored else None
        moves = ("reshape", "rows", "same") if through_rows else ("reshape",)
        if not isinstance(relation, Movement) or relation.how not in moves:
            return None
        outputs = relation.flows[0].index[outputs]
        node = relation.flows[0].source


def foldable(flow: Dataflow, product: AttentionProduct) -> LinearOrigin | None:
    """The linear layer a vector can be folded into, or None."""
    if product.vector is None or len(product.values) != 1:
        return None
    origin = linear_origin(flow, product.values[0], through_rows=False)
    logits = flow.axes[product.logits]
    if origin is None or len(logits.sizes) != 2 or logits.sizes[0] is not None:
        return None
    x = flow.axes[origin.relation.x]
    fits = len(x.sizes) == 2 and x.pairs[0] == logits.pairs[0]
    return origin if fits and len(np.unique(product.relation.index)) == logits.count else None
