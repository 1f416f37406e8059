"""The HRank criterion: channels whose feature maps have low rank are removed first."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx

from upscale_fx.channels.positions import Axes, Numbers
from upscale_fx.compiled.inputs import LARGE, SMALL
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.errors import InputError
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.masking.consumers.readings import Reading, flattened
from upscale_fx.masking.reconstruction.replay import Replay

if TYPE_CHECKING:
    from upscale_fx.analysis.dataflow import Dataflow
    from upscale_fx.masking.consumers.pools import Removal


@dataclass(frozen=True)
class HRank:
    """Drop the channels whose feature maps have the lowest rank, on average over the calibration data.

    After Lin et al., "HRank: filter pruning using high-rank feature map" (CVPR 2020). Labels are not needed. Images
    ``[B, C, H, W]``, and grids of a fixed number of nodes each (``[B, N, C]``, or ``[B N, C]`` with the same ``N`` in
    every image), have one map per image and channel, as in the paper: ``[H, W]``, nodes row by row.

    Graphs have no such map. Our version: the values of a channel at the nodes of one graph, in their order, are folded
    row by row into a matrix as square as possible (at all rows, where no ``batch`` names their graph). A low rank means
    that the channel is nearly constant, nearly everywhere zero, or periodic in the order of the nodes. The rank depends
    on that order, and many channels of a graph in random order have full rank: of these, the first are removed first.

    The rank is the number of singular values above ``max(rows, columns) * eps`` times the largest, computed in float64,
    with ``eps`` of the dtype that the model runs in.

    Attributes:
        rows: the most rows of a map; of more rows, this many are drawn, with ``seed``, in their order.
        maps: the most maps of a batch; of more maps, this many are drawn.
    """

    rows: int = 4096
    maps: int = 64

    def observe(
        self, flow: Dataflow, removals: Sequence[Removal], batches: Iterable[tuple[Any, Mapping[str, Any]]], seed: int
    ) -> list[Numbers]:
        """Scores ``[in]`` for every consumer: mean ranks over all maps.

        Raises:
            InputError: the model fails on a batch, or values are not finite.
        """
        assert isinstance(flow.module, CompiledGNN)
        consumers = [removal.consumer for removal in removals]
        place = {node: i for i, node in enumerate(flow.nodes)}
        total = [np.zeros(consumer.count) for consumer in consumers]
        count = [np.zeros(consumer.count) for consumer in consumers]
        work = [
            (n, r) for n, removal in enumerate(removals) if removal.eligible.any() for r in removal.consumer.readings
        ]
        work.sort(key=lambda item: max(place[node] for node in item[1].values))
        for number, (_, arguments) in enumerate(batches):
            replay = Replay(flow.module, flow.module, (), arguments)
            replay.hold({node for _, reading in work for node in reading.values})
            graphs = arguments.get("batch")
            for k, (consumer, reading) in enumerate(work):
                replay.advance(max(reading.values, key=place.__getitem__))
                draw = torch.Generator().manual_seed(zlib.crc32(f"{reading.node.name} {seed + number}".encode()))
                for maps in self._maps(flow, reading, replay.dense, graphs, draw):
                    self._check(consumers[consumer], maps)
                    read = np.logical_or.reduce(reading.operands[0].columns >= 0, axis=0)
                    total[consumer][read] += ranks(maps)[read]
                    count[consumer][read] += 1
                later = {node for _, after in work[k + 1 :] for node in after.values}
                replay.release(reading.values - later)
        return [a / np.maximum(b, 1) for a, b in zip(total, count, strict=True)]

    @staticmethod
    def _check(consumer: Consumer, maps: Tensor) -> None:
        if not bool(torch.isfinite(maps).all()):
            raise InputError(
                f"calibration: inputs of {consumer.name} hold NaN or infinite values; check the calibration data "
                f"(torch.isfinite) and the model's weights"
            )

    def _maps(
        self, flow: Dataflow, reading: Reading, values: dict[fx.Node, Any], graphs: object, draw: torch.Generator
    ) -> Iterator[Tensor]:
        """The maps ``[C, height, width]`` of all channels, one after another."""
        node, columns = reading.operands[0].value, reading.operands[0].columns
        places, channels = columns.shape
        axes = flow.axes[node]
        rows = len(flattened(flow, node, values[node]))
        each = _block(axes, values[node])
        everything = np.arange(channels, dtype=np.int64)[None]

        def taken(pick: Tensor) -> Tensor:
            return reading.rows(flow, values, everything, pick)[:, 0]

        if places > 1:  # a place of the grid is a position of the value
            height, width = _grid(axes, columns) or _near_square(places)
            for row in self._drawn(rows, draw).tolist():
                yield taken(torch.tensor([row])).t().reshape(channels, height, width)
            return
        if each > 1:
            groups = [
                torch.arange(first * each, (first + 1) * each) for first in self._drawn(rows // each, draw).tolist()
            ]
        elif isinstance(graphs, Tensor) and graphs.shape == (rows,):
            numbers = torch.unique(graphs.cpu())
            groups = [torch.nonzero(graphs.cpu() == numbers[k])[:, 0] for k in self._drawn(len(numbers), draw).tolist()]
        else:
            groups = [torch.arange(rows)]
        for group in groups:
            own = group
            if len(group) > self.rows:
                own = group[torch.randperm(len(group), generator=draw)[: self.rows].sort().values]
            if len(own):
                yield folded(taken(own))

    def _drawn(self, count: int, draw: torch.Generator) -> Tensor:
        """The numbers of the maps of a batch to take."""
        if count <= self.maps:
            return torch.arange(count)
        return torch.randperm(count, generator=draw)[: self.maps].sort().values


def _block(axes: Axes, value: Tensor) -> int:
    """The number of rows of each image, where all images of a value have equally many; 1 otherwise."""
    sizes = [size for size, static in zip(value.shape, axes.sizes, strict=True) if static is None]
    if len(sizes) > 1:
        return math.prod(sizes[1:])
    (first, second) = next((p for s, p in zip(axes.sizes, axes.pairs, strict=True) if s is None), (1, 1))
    for symbol in ("B", "N"):
        if first % SMALL[symbol] == 0 and first * LARGE[symbol] == second * SMALL[symbol]:
            return max(first // SMALL[symbol], 1)
    return 1


def _grid(axes: Axes, columns: np.typing.NDArray[np.int64]) -> tuple[int, int] | None:
    """Height and width, if the places of a channel ``columns [L, C]`` are exactly two axes of a value; else None."""
    static = [size for size in axes.sizes if size is not None]
    steps = np.stack(np.unravel_index(np.maximum(columns[:, 0], 0), static))
    wide = [size for size, step in zip(static, steps, strict=True) if len(np.unique(step)) > 1]
    return (wide[0], wide[1]) if len(wide) == 2 and wide[0] * wide[1] == len(columns) else None


def _near_square(count: int) -> tuple[int, int]:
    """Height and width of the squarest grid with exactly this many places."""
    height = next(h for h in range(math.isqrt(count), 0, -1) if count % h == 0)
    return height, count // height


def folded(values: Tensor) -> Tensor:
    """Columns ``[rows, C]`` as matrices ``[C, height, width]``, row by row, as square as can be, zeros at the end."""
    width = math.isqrt(len(values) - 1) + 1
    height = -(-len(values) // width)
    padded = values.new_zeros(height * width, values.shape[1])
    padded[: len(values)] = values
    return padded.t().reshape(-1, height, width)


def ranks(maps: Tensor) -> Numbers:
    """``[C]``: the numerical ranks of matrices ``[C, height, width]``; see :class:`HRank` for the tolerance."""
    eps = torch.finfo(maps.dtype if maps.is_floating_point() else torch.float64).eps
    singular = torch.linalg.svdvals(maps.double())
    least = singular.amax(dim=1, keepdim=True) * eps * max(maps.shape[1:])
    count: Numbers = (singular > least).sum(dim=1).double().cpu().numpy()
    return count
