"""Consumers whose outputs are reconstructed on their own, from what they read: everything that is no term of a target.

Outputs of a *block* come from the channels of that block alone: those of a head, where weights are given per head; of
all channels otherwise. A q·k product has one output per head, and its channels all weigh 1; a fitted weight of a
channel goes into the layers that make one of the operands.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, fx, nn

from upscale_fx.analysis.attention import own_layers, row_cuts
from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.stored import Cut
from upscale_fx.channels.positions import Flow, Positions
from upscale_fx.channels.relations import Contraction
from upscale_fx.channels.relations.products import Product, Recurrence
from upscale_fx.masking.consumers.consumer import Consumer, Reading
from upscale_fx.masking.reconstruction.regressions import ReadCounts, stored_entries
from upscale_fx.masking.reconstruction.shifts import Comparison, compared_in


@dataclass(frozen=True)
class Own:
    """A consumer as a least-squares problem of its own.

    Attributes:
        number: number of the consumer.
        consumer: the consumer.
        channels: ``[B, C]``, the channels of every block.
        stored: parameters that hold the weights, side by side along the outputs: names, and the entries ``[B, C, O]``
            that weigh the channels. Empty where weights cannot be set one by one.
        biases: their biases: names and entries ``[O]``. Empty where there are none.
        scaled: of a product, the rows of the layers that make one of its operands.
        reason: why its weights cannot be fitted, if they cannot.
        comparison: the softmax that its outputs, logits, are compared in; see :mod:`shifts`.
    """

    number: int
    consumer: Consumer
    channels: Positions
    stored: tuple[tuple[str, Positions], ...] = ()
    biases: tuple[tuple[str, Positions], ...] = ()
    scaled: tuple[Cut, ...] = ()
    reason: str = ""
    comparison: Comparison | None = None

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        """The calls that this problem finds weights for."""
        return tuple(self.consumer.sites)

    @property
    def variables(self) -> Positions:
        """``[B, V, 2]``: consumer and channel of every variable; -1 for a bias."""
        found = np.stack([np.full_like(self.channels, self.number), self.channels], axis=2)
        return np.concatenate([found, np.full((len(found), 1, 2), -1)], axis=1) if self.biases else found

    def weight(self, root: nn.Module) -> Tensor:
        """``[B, V, O]`` in float64: the weights in use, then the bias."""
        if self.stored:
            parts = [_entries(root, name, entries) for name, entries in self.stored]
            weight = torch.cat(parts, dim=2)
            if not self.biases:
                return weight
            bias = torch.cat([_entries(root, name, entries) for name, entries in self.biases])
            return torch.cat([weight, bias[None, None]], dim=1)
        if self.consumer.kind == "product":
            return torch.ones((*self.channels.shape, 1), dtype=torch.float64)
        slab = self.consumer.weight(root).double().cpu().t()
        return slab[torch.from_numpy(self.channels)]


def _entries(root: nn.Module, name: str, entries: Positions) -> Tensor:
    flat = root.get_parameter(name).detach().reshape(-1)
    return flat[torch.from_numpy(entries.copy()).to(flat.device)].double().cpu()


def own_problems(flow: Dataflow, consumers: Sequence[Consumer], joint: Collection[int]) -> Iterator[Own]:
    """One problem for each consumer that is no term of a target (``joint``: the numbers of those that are)."""
    count = ReadCounts(flow)
    for number, consumer in enumerate(consumers):
        if number not in joint:
            one = consumer.kind in ("vector", "product") and len(consumer.sites) == 1
            comparison = compared_in(flow, consumer.sites[0]) if one else None
            yield replace(_own(flow, number, consumer, count), comparison=comparison)


def _own(flow: Dataflow, number: int, consumer: Consumer, count: ReadCounts) -> Own:
    channels = _blocks(flow, consumer)
    if consumer.kind == "product":
        scaled = _own_side(flow, consumer)
        return Own(number, consumer, channels, scaled=scaled, reason="" if scaled else "several calls read its layers")
    if not all((cut.entries >= 0).all() for cut in consumer.cuts) or not _stored(flow, consumer):
        return Own(number, consumer, channels, reason="its weights are not entries of one parameter, one by one")
    calls = len(consumer.sites)
    if any((count.of(cut.target)[cut.entries] != calls).any() for cut in consumer.cuts if _seen(flow, consumer)):
        return Own(number, consumer, channels, reason="something else reads its weights too")
    stored = tuple((cut.target, _in_order(cut)[channels]) for cut in consumer.cuts)
    return Own(number, consumer, channels, stored, _biases(flow, consumer, count) if len(channels) == 1 else ())


def _in_order(cut: Cut) -> Positions:
    """``[C, O]``: the entries of each channel in the order of the outputs, in which a parameter lies in memory."""
    return np.sort(cut.entries, axis=1)


def _own_side(flow: Dataflow, consumer: Consumer) -> tuple[Cut, ...]:
    """The rows of the layers that make one operand of a product, if nothing else reads them."""
    if len(consumer.readings) != 1:
        return ()
    reading = consumer.readings[0]
    for source, columns in reading.factors:
        between = {user for user in source.users if user in reading.node.all_input_nodes}
        origins = list(own_layers(flow, Flow(source, columns.reshape(-1)), {reading.node, *between}))
        if origins and all(origin is not None for origin in origins):
            return tuple(cut for origin in origins if origin is not None for cut in row_cuts(flow, origin))
    return ()


def _blocks(flow: Dataflow, consumer: Consumer) -> Positions:
    """The channels of each block ``[B, C]``: heads, where outputs of a head come from its channels alone."""
    relation = flow.relations[consumer.sites[0]]
    apart = consumer.kind in ("vector", "product") or isinstance(relation, Product)
    heads = consumer.blocks
    if apart and heads is not None and len(set(np.bincount(heads)[np.unique(heads)].tolist())) == 1:
        return np.stack([np.flatnonzero(heads == head) for head in np.unique(heads)])
    return np.arange(consumer.count, dtype=np.int64)[None]


def _seen(flow: Dataflow, consumer: Consumer) -> bool:
    """Whether the graph shows who reads the weights; those of a recurrent module are its own."""
    return not any(isinstance(flow.relations[site], Recurrence) for site in consumer.sites)


def _stored(flow: Dataflow, consumer: Consumer) -> bool:
    """Whether the weight that every call uses is held by a parameter as it is, the same entries for all calls."""
    relations = [flow.relations[site] for site in consumer.sites]
    if all(isinstance(relation, Recurrence) for relation in relations):
        return True
    if len(consumer.cuts) != 1:
        return False
    if consumer.kind == "vector":
        return len(relations) == 1
    weights = {relation.weight if isinstance(relation, Contraction) else None for relation in relations}
    if None not in weights:
        return len(weights) == 1 and all(_held(flow, weight) for weight in weights if weight is not None)
    if len(relations) == 1 and isinstance(relations[0], Product):
        product, read = relations[0], consumer.readings[0].factors[0][0]
        return _held(flow, product.right if product.left is read else product.left)
    return False


def _held(flow: Dataflow, weight: fx.Node) -> bool:
    return stored_entries(flow, weight) is not None


def _biases(flow: Dataflow, consumer: Consumer, count: ReadCounts) -> tuple[tuple[str, Positions], ...]:
    """The biases that are added to what all calls compute, one for each parameter of weights; else none."""
    relations = [flow.relations[site] for site in consumer.sites]
    outputs = [cut.entries.shape[1] for cut in consumer.cuts]
    if all(isinstance(relation, Recurrence) for relation in relations):
        names = [cut.target.replace("weight_ih", "bias_ih") for cut in consumer.cuts]
        known = dict(flow.module.named_parameters())
        fits = all(name in known and known[name].numel() == size for name, size in zip(names, outputs, strict=True))
        return tuple((name, np.arange(size)) for name, size in zip(names, outputs, strict=True)) if fits else ()
    first = relations[0]
    if not isinstance(first, Contraction) or first.bias is None:
        return ()
    if any(not isinstance(relation, Contraction) or relation.bias is not first.bias for relation in relations):
        return ()
    own, held = stored_entries(flow, first.bias), stored_entries(flow, first.weight)
    if own is None or held is None or (count.of(own[0])[own[1]] != len(relations)).any():
        return ()
    grid = held[1].reshape(flow.axes[first.weight].shape)
    return (own,) if np.array_equal(grid if first.transposed else grid.T, _in_order(consumer.cuts[0])) else ()


def rows_of_reading(
    reading: Reading, channels: Positions, values: dict[fx.Node, Tensor], flow: Dataflow, pick: Tensor | None
) -> Tensor:
    """``[rows, B, C]``: the channels of every block, for the picked rows of the value (None: all) and every ``l``."""
    result: Tensor | None = None
    for node, columns in reading.factors:
        flat = flattened(values[node], flow, node)
        flat = flat if pick is None else flat[pick.to(flat.device)]
        index = torch.from_numpy(columns[:, channels]).to(flat.device)
        found = flat[:, index.clamp(min=0)]
        found = torch.where(index >= 0, found, found.new_zeros(())).reshape(-1, *channels.shape)
        result = found if result is None else result * found
    assert result is not None
    return result


def flattened(value: Tensor, flow: Dataflow, node: fx.Node) -> Tensor:
    """A value as ``[rows, positions]``: its row axes first, its channel axes flattened."""
    sizes = flow.axes[node].sizes
    rows = [axis for axis, size in enumerate(sizes) if size is None]
    channels = [axis for axis, size in enumerate(sizes) if size is not None]
    return value.permute(*rows, *channels).reshape(-1, flow.axes[node].count)
