"""Finds the consumers: every contraction over channels, and the entries that masking a channel sets to zero.

There are three kinds: a *weight* (the input columns of a linear layer, of any rank and however stored), a *vector*
(GATv2's attention vector) and a *product* (q·k: masking a channel zeroes the rows of the layers that make it, or the
columns of embedding tables, as in DistMult). An attention vector that folds into the layer before it (GAT's) is not a
consumer: its logits need no mask. A weight that several calls share, or that is looked up by relation, is one consumer.
Weights by which a recurrent module reads its states are consumers too (:mod:`~upscale_fx.masking.consumers.states`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import fx

from upscale_fx.analysis.attention import AttentionProduct, attention_products, foldable, own_layers, row_cuts
from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.heads import head_blocks
from upscale_fx.analysis.identity import channel_ids, components, first_seen
from upscale_fx.analysis.provenance import hidden
from upscale_fx.analysis.stored import Cut, NotStored, is_parameter, made_of_parameters, weight_cuts
from upscale_fx.channels.positions import Flow, Mask, Positions
from upscale_fx.channels.rectangles import cells
from upscale_fx.channels.relations import Contraction
from upscale_fx.channels.relations.convolutions import Convolution
from upscale_fx.channels.relations.products import Product, Recurrence
from upscale_fx.masking.consumers.consumer import Consumer, merged
from upscale_fx.masking.consumers.readings import Operand, Reading, multiplications, operands_of, reading_of
from upscale_fx.masking.consumers.states import state_consumers
from upscale_fx.masking.consumers.tables import table_cuts, table_sums


@dataclass(frozen=True)
class _Facts:
    """Facts about every value: hidden channels, heads, and the channel of each position."""

    flow: Dataflow
    carries: dict[fx.Node, Mask]
    blocks: dict[fx.Node, Positions]
    ids: dict[fx.Node, Positions]
    stored: set[fx.Node]
    sums: dict[fx.Node, tuple[Operand, ...]]


@dataclass(frozen=True)
class Unmaskable:
    """A contraction whose channels cannot be masked one by one, and why."""

    name: str
    channels: int
    reason: str


class Survey(NamedTuple):
    """All consumers of a traced graph in execution order, and the contractions that cannot be masked."""

    consumers: list[Consumer]
    refused: list[Unmaskable]


def find_consumers(flow: Dataflow) -> list[Consumer]:
    """All consumers of a traced graph, in execution order."""
    return survey(flow).consumers


def survey(flow: Dataflow) -> Survey:
    """Find the consumers of a traced graph, and the contractions that cannot be masked."""
    products = {p.logits: p for p in attention_products(flow)}
    ids = channel_ids(flow, through_cat=True)
    facts = _Facts(flow, hidden(flow), head_blocks(flow), ids, made_of_parameters(flow), dict(table_sums(flow)))
    homes = _homes(flow, facts.ids)
    calls: dict[str, list[Consumer]] = {}
    refused: list[Unmaskable] = []
    folded = {p.logits for p in products.values() if foldable(flow, p) is not None}
    for node in flow.nodes:
        try:
            made = None if node in folded else _consumer(facts, node, products)
        except NotStored as reason:
            name = node.meta.get("module") or node.name
            if name not in {one.name for one in refused}:
                refused.append(Unmaskable(name, _inputs(flow, node), str(reason)))
            continue
        if made is None:
            continue
        made.homes = homes[made.channels]
        calls.setdefault(made.name, []).append(made)
    layers = folded.union(*(one.sites for same in calls.values() for one in same))
    for made in state_consumers(flow, ids, homes, layers):
        calls.setdefault(made.name, []).append(made)
    place = {node: number for number, node in enumerate(flow.nodes)}
    found = sorted(calls.values(), key=lambda same: place[same[0].sites[0]])
    return Survey([merged(same) for same in found], refused)


def _inputs(flow: Dataflow, node: fx.Node) -> int:
    """The number of channels that a contraction reads."""
    relation = flow.relations[node]
    if isinstance(relation, Product):
        return int(relation.positions[0].shape[0] * relation.positions[0].shape[2])
    return flow.axes[relation.reads[0]].shape[-1]


def _consumer(facts: _Facts, node: fx.Node, products: dict[fx.Node, AttentionProduct]) -> Consumer | None:
    relation = facts.flow.relations.get(node)
    if node in facts.stored and None not in facts.flow.axes[node].sizes:
        return None  # it is part of a weight; with rows it would be looked up by data, so data itself
    if isinstance(relation, Contraction):
        if relation.weight not in facts.stored:
            return None
        inputs = facts.flow.axes[relation.x].shape[-1]
        grid = np.arange(inputs)[:, None] if relation.transposed else np.arange(inputs)[None]
        labels = np.broadcast_to(grid, facts.flow.axes[relation.weight].shape).reshape(-1)
        return _weight_consumer(facts, node, operands_of(facts.flow, node)[0], relation.weight, labels)
    if isinstance(relation, Convolution):
        if relation.weight not in facts.stored:
            return None
        _, labels = relation.columns()
        return _weight_consumer(facts, node, operands_of(facts.flow, node)[0], relation.weight, labels)
    if isinstance(relation, Product):
        return _operand_consumer(facts, node, relation)
    if isinstance(relation, Recurrence):
        return _recurrent_consumer(facts, node, relation)
    made = _attention_consumer(facts, products[node]) if node in products else None
    return made or (_table_consumer(facts, node, facts.sums[node], None) if node in facts.sums else None)


def _weight_consumer(
    facts: _Facts, node: fx.Node, operand: Operand, weight: fx.Node, labels: Positions
) -> Consumer | None:
    """The consumer that reads an operand; ``labels`` are the channels of the positions of its weight."""
    x, columns = operand.value, operand.columns
    if x not in facts.ids:
        return None
    cuts = weight_cuts(facts.flow, weight, labels, columns.shape[1])
    mask: Mask = np.logical_or.reduce(facts.carries[x][columns], axis=0)
    own = facts.blocks[x][columns[0]] if len(columns) == 1 and x in facts.blocks else None
    name = cuts[0].target.removesuffix(".weight")
    reading = Reading(node, (operand,))
    return Consumer(name, "weight", [node], cuts, mask, own, facts.ids[x][columns[0]], readings=[reading])


def _operand_consumer(facts: _Facts, node: fx.Node, relation: Product) -> Consumer | None:
    """A product with a weight on one side, or of two values that linear layers make (q·k)."""
    batch, _, inner = relation.positions[0].shape
    if inner == 1 and not facts.stored & {relation.left, relation.right}:
        return None  # a sum over rows
    channels = np.arange(batch * inner, dtype=np.int64)
    blocks = np.repeat(np.arange(batch), inner) if batch > 1 else None
    sides = operands_of(facts.flow, node)
    # If both operands are made of parameters, the weight is the one without rows, else the larger one.
    first, second = sorted(sides, key=lambda side: (None not in facts.flow.axes[side.value].sizes, side.columns.size))
    for read, weight in ((first, second), (second, first)):
        if weight.value in facts.stored:
            labels = np.empty(facts.flow.axes[weight.value].count, dtype=np.int64)
            labels[weight.columns] = channels
            made = _weight_consumer(facts, node, read, weight.value, labels)
            if made is not None and blocks is not None:
                made.blocks = blocks
            return made
    if any(len(side.columns) > 1 for side in sides):
        return None
    flows = tuple(Flow(side.value, side.columns.reshape(-1)) for side in sides)
    return _product_consumer(facts, node, flows, blocks)


def _recurrent_consumer(facts: _Facts, node: fx.Node, relation: Recurrence) -> Consumer | None:
    inputs = len(relation.columns)
    if relation.x not in facts.ids:
        return None
    operand = operands_of(facts.flow, node)[0]
    mask: Mask = np.logical_or.reduce(facts.carries[relation.x][operand.columns], axis=0)
    cuts = []
    for name in relation.weights:
        target = f"{relation.module}.{name}" if relation.module else name
        rows = facts.flow.module.get_parameter(target).shape[0]
        cuts.append(Cut(target, np.arange(rows * inputs, dtype=np.int64).reshape(rows, inputs).T, (rows, inputs)))
    ids = facts.ids[relation.x][operand.columns[0]]
    return Consumer(relation.module, "weight", [node], cuts, mask, None, ids, readings=[Reading(node, (operand,))])


def _attention_consumer(facts: _Facts, product: AttentionProduct) -> Consumer | None:
    source = product.relation.source
    axes = facts.flow.axes[source]
    heads = cells(axes) if len(axes.wide) > 1 else facts.blocks.get(source)
    if product.vector is None:
        return _product_consumer(facts, product.logits, product.values, heads)
    target = str(product.vector.source.target)
    if not is_parameter(facts.flow, target):
        return None
    shape = tuple(facts.flow.module.get_parameter(target).shape)
    cuts = [Cut(target, product.vector.index[:, None], shape)]
    carries, ids = facts.carries[source], facts.ids[source]
    reading = reading_of(product.logits, product.values)
    return Consumer(target, "vector", [product.logits], cuts, carries, heads, ids, readings=[reading])


def _product_consumer(
    facts: _Facts, node: fx.Node, values: tuple[Flow, ...], heads: Positions | None
) -> Consumer | None:
    """A product of two values: channel ``c`` is position ``index[c]`` of each."""
    sides = [list(own_layers(facts.flow, side, {node, *multiplications(side.source, node)})) for side in values]
    # A zero on one side makes the product zero; the other side is then dead too, if it has no other reader.
    if not any(side and all(o is not None for o in side) for side in sides):
        return _table_consumer(facts, node, reading_of(node, values).operands, heads)
    origins = [o for side in sides for o in side if o is not None]
    cuts: list[Cut] = []
    for origin in origins:
        cuts += row_cuts(facts.flow, origin)
    names = list(dict.fromkeys(str(o.relation.weight.target).removesuffix(".weight") for o in origins))
    name = "@".join(names) if len(names) > 1 else f"{names[0]}@{node.name}"
    mask: Mask = np.logical_or.reduce([facts.carries[f.source][f.index] for f in values])
    first = values[0]
    ids = facts.ids[first.source][first.index]
    return Consumer(name, "product", [node], cuts, mask, heads, ids, readings=[reading_of(node, values)])


def _table_consumer(
    facts: _Facts, node: fx.Node, factors: tuple[Operand, ...], heads: Positions | None
) -> Consumer | None:
    """A product of rows of embedding tables."""
    cuts = table_cuts(facts.flow, factors, facts.sums.keys())
    if not cuts:
        return None
    first = factors[0]
    carries: Mask = np.ones(first.columns.shape[1], dtype=bool)  # learned, whatever the table looks like
    name = "@".join(dict.fromkeys(cut.target.removesuffix(".weight") for cut in cuts))
    ids = facts.ids[first.value][first.columns[0]]
    return Consumer(name, "product", [node], cuts, carries, heads, ids, readings=[Reading(node, factors)])


def _homes(flow: Dataflow, ids: dict[fx.Node, Positions]) -> Positions:
    """For each channel the component of the value in which it first appears; a concatenation starts new ones."""
    local = channel_ids(flow)
    component = components(local)
    homes = np.full(1 + max((int(own.max(initial=-1)) for own in ids.values()), default=-1), -1, dtype=np.int64)
    for node in flow.nodes:
        if node in local:
            first_seen(ids[node], component[local[node]], homes)
    return homes
