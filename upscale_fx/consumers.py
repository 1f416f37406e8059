"""Consumers: every contraction over channels, and what masking one of its channels means.

Three kinds: a *weight* (a linear layer's input columns), a *vector* (GATv2's attention vector) and a *product* (q·k,
whose channels go in pairs: the rows of the layers that make them). An attention vector that folds into the layer
before it (GAT's) is none: its logits need no mask.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, fx, nn

from upscale_fx.attention import AttentionProduct, LinearOrigin, attention_products, foldable, linear_origin
from upscale_fx.channels import Flow, Mask, Positions
from upscale_fx.dataflow import Dataflow
from upscale_fx.heads import head_blocks
from upscale_fx.layout import channel_ids, components
from upscale_fx.provenance import hidden
from upscale_fx.rectangles import cells
from upscale_fx.relations import Contraction, Movement, Pointwise


@dataclass(frozen=True)
class Cut:
    """Where a consumer's channel ``c`` lives in a parameter: ``index[c]`` along ``axis`` (-1: of the flat tensor)."""

    target: str
    axis: int
    index: Positions


@dataclass
class Consumer:
    """One contraction, possibly called several times.

    Attributes:
        name: module path of the weight, path of the vector, or both layers of a product joined by ``@``.
        kind: ``"weight"``, ``"vector"`` or ``"product"``.
        sites: the nodes that read.
        cuts: the parameter entries that are zero when a channel is masked.
        hidden: which channels carry hidden values (the others are raw inputs).
        blocks: the head each channel belongs to, if its tensor has heads.
        channels: identity of each channel, shared with other consumers that read the same.
    """

    name: str
    kind: str
    sites: list[fx.Node]
    cuts: list[Cut]
    hidden: Mask
    blocks: Positions | None
    channels: Positions
    homes: Positions = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def count(self) -> int:
        """Number of input channels."""
        return len(self.hidden)

    def weight(self, root: nn.Module) -> Tensor:
        """The weight as ``[out, in]``; for a product, the rows of both layers one above the other."""
        return torch.cat([_slab(root, cut) for cut in self.cuts])

    def reads(self, root: nn.Module) -> Mask:
        """Which channels meet a weight that is not zero."""
        found: Mask = (self.weight(root) != 0).any(dim=0).cpu().numpy()
        return found

    def zero(self, root: nn.Module, removed: Mask) -> None:
        """Set the entries of removed channels to zero, in place."""
        with torch.no_grad():
            for cut in self.cuts:
                parameter = _parameter(root, cut.target)
                index = torch.from_numpy(cut.index[removed]).to(parameter.device)
                flat = parameter.view(-1) if cut.axis < 0 else parameter
                flat.index_fill_(max(cut.axis, 0), index, 0)


def _parameter(root: nn.Module, target: str) -> nn.Parameter:
    """A parameter by the name it has after ``torch.nn.utils.prune.remove``."""
    path, _, name = target.rpartition(".")
    masked = f"{name}_orig" in root.get_submodule(path)._parameters
    return root.get_parameter(f"{target}_orig" if masked else target)


def _slab(root: nn.Module, cut: Cut) -> Tensor:
    parameter = root.get_parameter(cut.target).detach()
    index = torch.from_numpy(cut.index.copy()).to(parameter.device)
    if cut.axis < 0:
        return parameter.reshape(-1)[index][None]
    picked = parameter.index_select(cut.axis, index)
    return picked.movedim(cut.axis, -1).reshape(-1, len(index))


def find_consumers(flow: Dataflow) -> list[Consumer]:
    """All consumers of a traced graph, in execution order."""
    carries, blocks, ids = hidden(flow), head_blocks(flow), channel_ids(flow, through_cat=True)
    homes = _homes(flow, ids)
    found: dict[str, Consumer] = {}
    folded = {p.logits for p in attention_products(flow) if foldable(flow, p) is not None}
    products = {p.logits: p for p in attention_products(flow)}
    for node in flow.nodes:
        relation = flow.relations.get(node)
        made: Consumer | None = None
        if isinstance(relation, Contraction):
            made = _weight_consumer(flow, node, relation, carries, blocks, ids)
        elif node in products and node not in folded:
            made = _product_consumer(flow, products[node], carries, blocks, ids)
        if made is None:
            continue
        made.homes = np.array([homes.get(c, -1) for c in made.channels.tolist()], dtype=np.int64)
        known = found.setdefault(made.name, made)
        if known is not made:  # called again: one weight, one mask
            known.sites += made.sites
            known.hidden = known.hidden | made.hidden
            known.channels = np.where(known.channels < 0, made.channels, known.channels)
    return list(found.values())


def _weight_consumer(
    flow: Dataflow, node: fx.Node, relation: Contraction, carries: dict[fx.Node, Mask],
    blocks: dict[fx.Node, Positions], ids: dict[fx.Node, Positions],
) -> Consumer | None:  # fmt: skip
    stored = _stored_weight(flow, relation)
    if stored is None or relation.x not in ids:
        return None
    target, columns, count = stored
    axis = 0 if relation.transposed else 1
    inputs = len(columns)
    hidden_here: Mask = np.logical_or.reduce(carries[relation.x].reshape(relation.batch, inputs), axis=0)
    mask = np.zeros(count, dtype=bool)
    mask[columns] = hidden_here
    channels = -1 - np.arange(count, dtype=np.int64)  # a column that this call does not read is no channel of its own
    channels[columns] = ids[relation.x].reshape(relation.batch, inputs)[0]
    own = blocks.get(relation.x) if relation.batch == 1 and inputs == count else None
    if own is not None:
        own = own[np.argsort(columns)]
    name = target.removesuffix(".weight")
    return Consumer(name, "weight", [node], [Cut(target, axis, np.arange(count))], mask, own, channels)


def _stored_weight(flow: Dataflow, relation: Contraction) -> tuple[str, Positions, int] | None:
    """The parameter behind a weight, which of its columns each input meets, and how many it has.

    A layer that is called several times reads its weight through reorders after compaction.
    """
    node, shape = relation.weight, flow.axes[relation.weight].shape
    index = np.arange(flow.axes[node].count, dtype=np.int64)
    while node.op != "get_attr":
        move = flow.relations[node]
        if not isinstance(move, Movement) or len(move.flows) != 1:
            return None
        index, node = move.flows[0].index[index], move.flows[0].source
    stored = flow.axes[node].shape
    if not _is_parameter(flow, str(node.target)) or len(stored) != 2:
        return None
    axis = 0 if relation.transposed else 1
    places = np.moveaxis(np.unravel_index(index, stored)[axis].reshape(shape), axis, 0)
    if np.any(places != places[:, :1]):
        return None
    return str(node.target), places[:, 0].astype(np.int64), stored[axis]


def _is_parameter(flow: Dataflow, target: str) -> bool:
    path, _, name = target.rpartition(".")
    return name in flow.module.get_submodule(path)._parameters


def _product_consumer(
    flow: Dataflow, product: AttentionProduct, carries: dict[fx.Node, Mask], blocks: dict[fx.Node, Positions],
    ids: dict[fx.Node, Positions],
) -> Consumer | None:  # fmt: skip
    source = product.relation.source
    axes = flow.axes[source]
    heads = cells(axes) if len(axes.wide) > 1 else blocks.get(source)
    if product.vector is not None:
        target = str(product.vector.source.target)
        if not _is_parameter(flow, target):
            return None
        cuts = [Cut(target, -1, product.vector.index)]
        return Consumer(target, "vector", [product.logits], cuts, carries[source], heads, ids[source])
    sides = [list(_own_layers(flow, side, {source})) for side in product.values]
    # One side that becomes zero makes the product zero; the other side follows where it has no other reader.
    if not any(side and all(o is not None for o in side) for side in sides):
        return None
    origins = [o for side in sides for o in side if o is not None]
    cuts = []
    for origin in origins:
        axis = 1 if origin.relation.transposed else 0
        cuts.append(Cut(str(origin.relation.weight.target), axis, origin.outputs))
        if origin.relation.bias is not None:
            cuts.append(Cut(str(origin.relation.bias.target), -1, origin.outputs))
    names = list(dict.fromkeys(str(o.relation.weight.target).removesuffix(".weight") for o in origins))
    name = "@".join(names) if len(names) > 1 else f"{names[0]}@{product.logits.name}"
    return Consumer(name, "product", [product.logits], cuts, carries[source], heads, ids[source])


def _own_layers(flow: Dataflow, start: Flow, readers: set[fx.Node]) -> Iterator[LinearOrigin | None]:
    """The layers whose outputs sum up to an operand; None for a part that others read too or that no layer makes."""
    node, index, readers = start.source, start.index, set(readers)
    while True:
        users = {user for user in node.users if user in flow.axes} - readers
        relation = flow.relations[node]
        if users:
            yield None
            return
        readers = {node}
        if isinstance(relation, Contraction):
            origin = linear_origin(flow, Flow(node, index), through_rows=True)
            single = origin is not None and len(origin.relation.weight.users) == 1
            yield origin if single else None
            return
        if isinstance(relation, Movement) and relation.how in ("reshape", "rows", "same"):
            index = relation.flows[0].index[index]
            node = relation.flows[0].source
            continue
        if isinstance(relation, Pointwise) and relation.zero == "all" and node.target in _SUMS:
            for part in relation.flows:
                if part.source.op == "get_attr":
                    yield None
                else:
                    yield from _own_layers(flow, Flow(part.source, part.index[index]), {node})
            return
        yield None
        return


_SUMS = (torch.add, operator.add, "add")


def _homes(flow: Dataflow, ids: dict[fx.Node, Positions]) -> dict[int, int]:
    """For each channel the component of the value it first appears in, not looking through cat."""
    local = channel_ids(flow)
    component = components(local)
    homes: dict[int, int] = {}
    for node in flow.nodes:
        if node in ids:
            for channel, own in zip(ids[node].tolist(), local[node].tolist(), strict=True):
                homes.setdefault(channel, component[own])
    return homes
