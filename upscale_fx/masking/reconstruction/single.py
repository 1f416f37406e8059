"""The regression of one consumer whose outputs are not a term of a sum of linear layers.

The outputs of a *block* come only from the channels of that block. There is one block per head where weights are per
head, else one block of all channels. A q·k product has one output per head, and all its channels have weight 1; a
fitted weight of a channel scales the layers that make one of the operands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.row_symbols import rows_of
from upscale_fx.analysis.stored import Cut
from upscale_fx.channels.positions import Positions
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.masking.consumers.readings import Reading, flattened
from upscale_fx.masking.reconstruction.differences import lacking, real
from upscale_fx.masking.reconstruction.moments import Moments
from upscale_fx.masking.reconstruction.pairs import makes_pairs, pair_moments
from upscale_fx.masking.reconstruction.parameters import entries_of, set_entries
from upscale_fx.masking.reconstruction.replay import Replay
from upscale_fx.masking.reconstruction.sampling import Sample, sample
from upscale_fx.masking.reconstruction.softmax_rows import Softmax, softmax_weighted
from upscale_fx.masking.reconstruction.solve import NotFittedError


@dataclass(frozen=True)
class SingleProblem:
    """One consumer as a least-squares problem of its own; see :class:`~problem.Problem`.

    Attributes:
        consumer: the consumer.
        consumer_number: its number.
        channels: ``[B, C]``, the channels of every block.
        stored: parameters that hold the weights, side by side along the outputs: names, and the entries ``[B, C, O]``
            of the channels. Empty where weights cannot be set one by one.
        biases: their biases: names and entries ``[O]``. Empty where there are none.
        scaled: for a product, the rows of the layers that make one of its operands.
        reason: why its weights cannot be fitted, if they cannot.
        softmax: the softmax that reads its outputs, if these are logits; see :mod:`softmax_rows`.
        number: its number among all problems.
    """

    consumer: Consumer
    consumer_number: int
    channels: Positions
    stored: tuple[tuple[str, Positions], ...] = ()
    biases: tuple[tuple[str, Positions], ...] = ()
    scaled: tuple[Cut, ...] = ()
    reason: str = ""
    softmax: Softmax | None = None
    number: int = -1

    @property
    def calls(self) -> tuple[fx.Node, ...]:
        """The calls of the consumer."""
        return tuple(self.consumer.sites)

    @property
    def target(self) -> None:
        """None: its outputs are logits, gates, or outputs of several calls."""

    @property
    def logits(self) -> bool:
        """Whether the consumer is an attention vector, or a product of queries and keys."""
        return self.consumer.kind != "weight"

    @property
    def variables(self) -> Positions:
        """``[B, V, 2]``: consumer and channel of every variable; -1 for a bias."""
        pairs = np.stack([np.full_like(self.channels, self.consumer_number), self.channels], axis=2)
        return np.concatenate([pairs, np.full((len(pairs), 1, 2), -1)], axis=1) if self.biases else pairs

    @property
    def parameters(self) -> set[str]:
        """The weights and biases, or the weights of the layers that make an operand of a product."""
        return {name for name, _ in (*self.stored, *self.biases)} | {cut.target for cut in self.scaled}

    def weight(self, root: nn.Module) -> Tensor:
        """``[B, V, O]`` in float64: the weights in use, then the bias."""
        if self.stored:
            weight = torch.cat([entries_of(root, name, entries) for name, entries in self.stored], dim=2)
            if not self.biases:
                return weight
            bias = torch.cat([entries_of(root, name, entries) for name, entries in self.biases])
            return torch.cat([weight, bias[None, None]], dim=1)
        if self.consumer.kind == "product":
            return torch.ones((*self.channels.shape, 1), dtype=torch.float64)
        slab = self.consumer.weight(root).double().cpu().t()
        return slab[torch.from_numpy(self.channels)]

    def last_node(self, place: Mapping[fx.Node, int]) -> fx.Node:
        """The softmax, or the last of the calls."""
        return self.softmax.shares if self.softmax is not None else max(self.calls, key=place.__getitem__)

    def held_nodes(self, refitted: bool = True) -> set[fx.Node]:
        """The operands of the calls, and the softmax with its index."""
        read = {node for reading in self.consumer.readings for node in reading.values}
        return read if self.softmax is None else read | {self.softmax.shares, self.softmax.index}

    @torch.no_grad()
    def gather(
        self, moments: Moments, replay: Replay, flow: Dataflow, weight: Tensor | None, seed: int
    ) -> Tensor | None:
        """Add the rows of all calls in one batch to the moments. See :meth:`~problem.Problem.gather`."""
        for reading in self.consumer.readings:
            if makes_pairs(reading, flow):
                pruned_values = None if weight is None else replay.pruned
                like = weight if weight is not None else moments.cross.new_ones(moments.cross.shape)
                moments.include(pair_moments(reading, self.channels, replay.dense, pruned_values, flow, like))
            else:
                self._add_rows(reading, moments, replay, flow, weight, seed)
        return None

    def _add_rows(
        self, reading: Reading, moments: Moments, replay: Replay, flow: Dataflow, weight: Tensor | None, seed: int
    ) -> None:
        """Add the rows of one call in one batch."""
        value = reading.operands[0].value
        count = len(flattened(flow, value, replay.dense[value]))
        some = sample(count, rows_of(flow.axes[value]), reading.node.name, seed)
        dense = self._rows(reading, replay, flow, some, False)
        if weight is None:
            moments.add(dense, None, some.weight)
            return
        pruned = self._rows(reading, replay, flow, some, True)
        missing = torch.einsum("rbc,bco->rbo", lacking(dense, pruned).double(), weight.to(dense.device))
        moments.add(pruned, missing, some.weight)

    def _rows(self, reading: Reading, replay: Replay, flow: Dataflow, some: Sample, pruned: bool) -> Tensor:
        """``[rows, B, V]``: the channels that a call reads, and ones for a bias."""
        values = replay.pruned if pruned else replay.dense
        if len({len(flattened(flow, node, values[node])) for node in reading.values}) > 1:
            raise NotFittedError("its two operands have different rows")
        softmax = self.softmax
        if softmax is not None:
            every = real(reading.rows(flow, values, self.channels))
            return some.of(softmax_weighted(every, replay.dense[softmax.shares], replay.dense[softmax.index]))
        rows = real(reading.rows(flow, values, self.channels, some.pick))
        return torch.cat([rows, rows.new_ones((*rows.shape[:2], 1))], dim=2) if self.biases else rows

    def correct(self, replay: Replay, rows: Tensor | None, change: Tensor) -> bool:
        """Always False: the use of its outputs is not known."""
        return False

    def write(self, root: nn.Module, weight: Tensor) -> set[str]:
        """Set the weights and biases, or scale the layers that make an operand; returns the names of parameters."""
        start, count = 0, self.channels.shape[1]
        for number, (name, entries) in enumerate(self.stored):
            part = weight[:, :, start : start + entries.shape[2]]
            set_entries(root, name, entries, part[:, :count])
            if self.biases:
                bias, places = self.biases[number]
                set_entries(root, bias, places, part[0, count])
            start += entries.shape[2]
        for cut in self.scaled:
            rows = cut.entries[self.channels]
            here = rows >= 0
            scaled = entries_of(root, cut.target, np.maximum(rows, 0)) * weight
            set_entries(root, cut.target, rows[here], scaled[torch.from_numpy(here)])
        return self.parameters
