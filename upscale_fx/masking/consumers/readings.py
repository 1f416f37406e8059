"""How a consumer reads its channels: from which values, at which positions, and the rows of them in a running model.

A channel of a consumer is at one position of the value that a call reads, or at several: one for each combination
``l`` of the axes over which the call does not sum (the ``L`` of a linear layer on ``[N, L, C]``, places of an image).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Flow, Positions
from upscale_fx.channels.relations import Contraction
from upscale_fx.channels.relations.convolutions import Convolution
from upscale_fx.channels.relations.products import Product, Recurrence


@dataclass(frozen=True)
class Operand:
    """A value that a call reads channels of.

    Attributes:
        value: the value.
        columns: ``[L, C]``, the positions of channel ``c`` in it; -1 where the call does not read ``c``.
    """

    value: fx.Node
    columns: Positions

    def placed(self, place: Positions, total: int) -> Operand:
        """The same operand, with channel ``c`` renumbered as ``place[c]`` of ``total``."""
        columns = np.full((len(self.columns), total), -1, dtype=np.int64)
        columns[:, place] = self.columns
        return Operand(self.value, columns)


@dataclass(frozen=True)
class Reading:
    """What one call of a consumer reads: the channels of its operand, or the products of the channels of two.

    Attributes:
        node: the call.
        operands: one value, or the two that are multiplied channel by channel.
    """

    node: fx.Node
    operands: tuple[Operand, ...]

    @property
    def values(self) -> set[fx.Node]:
        """The values that are read."""
        return {operand.value for operand in self.operands}

    def placed(self, place: Positions, total: int) -> Reading:
        """The same reading, with channel ``c`` renumbered as ``place[c]`` of ``total``."""
        return Reading(self.node, tuple(operand.placed(place, total) for operand in self.operands))

    def rows(
        self, flow: Dataflow, values: Mapping[fx.Node, Tensor], channels: Positions, pick: Tensor | None = None
    ) -> Tensor:
        """What the call reads in a running model.

        Args:
            flow: the analysed graph.
            values: what the model has computed.
            channels: ``[B, C]``, the channels of every block.
            pick: the rows of the values to take; None: all.

        Returns:
            ``[rows * L, B, C]``.
        """
        result: Tensor | None = None
        for operand in self.operands:
            flat = flattened(flow, operand.value, values[operand.value])
            flat = flat if pick is None else flat[pick.to(flat.device)]
            index = torch.from_numpy(operand.columns[:, channels]).to(flat.device)
            read = flat[:, index.clamp(min=0)]
            read = torch.where(index >= 0, read, read.new_zeros(())).reshape(-1, *channels.shape)
            result = read if result is None else result * read
        assert result is not None
        return result


def flattened(flow: Dataflow, node: fx.Node, value: Tensor) -> Tensor:
    """A value as ``[rows, positions]``: its row axes first, its channel axes flattened."""
    sizes = flow.axes[node].sizes
    rows = [axis for axis, size in enumerate(sizes) if size is None]
    channels = [axis for axis, size in enumerate(sizes) if size is not None]
    return value.permute(*rows, *channels).reshape(-1, flow.axes[node].count)


def operands_of(flow: Dataflow, node: fx.Node) -> tuple[Operand, ...]:
    """The operands whose channels a call sums over: that of a layer, or both sides of a product.

    A side of a product can be a weight. Empty for calls that are not contractions.
    """
    relation = flow.relations.get(node)
    if isinstance(relation, Contraction):
        positions = np.arange(flow.axes[relation.x].count, dtype=np.int64)
        return (Operand(relation.x, positions.reshape(relation.batch, -1)),)
    if isinstance(relation, Recurrence):
        positions = np.arange(flow.axes[relation.x].count, dtype=np.int64)
        return (Operand(relation.x, positions.reshape(-1, len(relation.columns))),)
    if isinstance(relation, Convolution):
        return (Operand(relation.x, relation.columns()[0]),)
    if isinstance(relation, Product):
        left, right, _ = relation.positions
        sides = ((relation.left, left.transpose(1, 0, 2)), (relation.right, right.transpose(2, 0, 1)))
        return tuple(Operand(value, side.reshape(len(side), -1)) for value, side in sides)
    return ()


def reading_of(node: fx.Node, flows: tuple[Flow, ...]) -> Reading:
    """The reading of a call that takes channel ``c`` from position ``index[c]`` of each value."""
    return Reading(node, tuple(Operand(flow.source, flow.index[None]) for flow in flows))


def multiplications(source: fx.Node, node: fx.Node) -> set[fx.Node]:
    """The calls between an operand and the sum that reads it, which multiply its channels with the other side's."""
    return {user for user in source.users if user in node.all_input_nodes}
