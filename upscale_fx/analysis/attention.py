"""Find attention products in a graph: products of two operands, summed over channels.

There are two kinds: a learned *vector* times a value (GAT, GATv2), and a *product* of two values (q·k). A vector is
*foldable* if the value is the output of a linear layer: ``(x W) . a = x (W a)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.stored import Cut, weight_cuts
from upscale_fx.channels.positions import Flow, Positions
from upscale_fx.channels.relations import Contraction, Movement, Pointwise, Reduction
from upscale_fx.compiled.calls import SUMS


@dataclass(frozen=True)
class AttentionProduct:
    """``logits[h] = sum over c of left[h, c] * right[h, c]``.

    Attributes:
        logits: the node of the reduction.
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
    """A value whose positions are outputs of one linear layer: position ``p`` is output ``outputs[p]``."""

    node: fx.Node
    relation: Contraction
    outputs: Positions


def attention_products(flow: Dataflow) -> Iterator[AttentionProduct]:
    """Yield all attention products of a graph, in execution order."""
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
    """Follow a value back through views (and gathers of rows, if ``through_rows``) to the linear layer that made it."""
    node, outputs = start.source, start.index
    while True:
        relation = flow.relations[node]
        if isinstance(relation, Contraction):
            stored = through_rows or relation.weight.op == "get_attr"
            return LinearOrigin(node, relation, outputs) if stored and relation.batch == 1 else None
        moves = ("reshape", "rows", "same", "pick") if through_rows else ("reshape",)
        if not isinstance(relation, Movement) or relation.how not in moves:
            return None
        outputs = relation.flows[0].index[outputs]
        node = relation.flows[0].source


def foldable(flow: Dataflow, product: AttentionProduct) -> LinearOrigin | None:
    """Return the linear layer that the vector can be folded into; None if there is none."""
    if product.vector is None or len(product.values) != 1:
        return None
    origin = linear_origin(flow, product.values[0], through_rows=False)
    logits = flow.axes[product.logits]
    if origin is None or len(logits.sizes) != 2 or logits.sizes[0] is not None:
        return None
    x = flow.axes[origin.relation.x]
    fits = len(x.sizes) == 2 and x.pairs[0] == logits.pairs[0]
    return origin if fits and len(np.unique(product.relation.index)) == logits.count else None


def own_layers(flow: Dataflow, start: Flow, readers: set[fx.Node]) -> Iterator[LinearOrigin | None]:
    """Yield the layers whose outputs add up to an operand; None for a part with other readers or from no layer."""
    node, index, readers = start.source, start.index, set(readers)
    while True:
        users = {user for user in node.users if user in flow.axes} - readers
        relation = flow.relations[node]
        if any(_overlaps(flow, user, node, index) for user in users):
            yield None
            return
        readers = {node}
        if isinstance(relation, Contraction):
            origin = linear_origin(flow, Flow(node, index), through_rows=True)
            single = origin is not None and len(origin.relation.weight.users) == 1
            yield origin if single else None
            return
        if isinstance(relation, Movement) and relation.how in ("reshape", "rows", "same", "pick"):
            index = relation.flows[0].index[index]
            node = relation.flows[0].source
            continue
        if isinstance(relation, Pointwise) and relation.zero == "all" and node.target in SUMS:
            for part in relation.flows:
                if part.source.op == "get_attr":
                    yield None
                else:
                    yield from own_layers(flow, Flow(part.source, part.index[index]), {node})
            return
        yield None
        return


def _overlaps(flow: Dataflow, user: fx.Node, node: fx.Node, index: Positions) -> bool:
    """Whether another reader may read some of these positions; slices that do not overlap do not."""
    relation = flow.relations[user]
    if not isinstance(relation, Movement):
        return True
    return any(f.source is node and bool(np.isin(f.index, index).any()) for f in relation.flows)


def row_cuts(flow: Dataflow, origin: LinearOrigin) -> list[Cut]:
    """Return the entries of a layer's weight and bias that compute output ``outputs[c]``, for every channel ``c``."""
    relation, count = origin.relation, len(origin.outputs)
    shape = flow.axes[relation.weight].shape
    row = np.full(shape[1 if relation.transposed else 0], -1, dtype=np.int64)
    row[origin.outputs] = np.arange(count)
    labels = np.broadcast_to(row[None] if relation.transposed else row[:, None], shape).reshape(-1)
    cuts = weight_cuts(flow, relation.weight, labels, count)
    return cuts if relation.bias is None else cuts + weight_cuts(flow, relation.bias, row, count)
