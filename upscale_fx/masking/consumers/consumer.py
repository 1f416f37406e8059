"""A consumer: the calls that read channels, and the parameter entries that masking a channel sets to zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, fx, nn

from upscale_fx.analysis.stored import Cut, merged_cuts
from upscale_fx.channels.positions import Mask, Positions
from upscale_fx.masking.consumers.readings import Reading


@dataclass
class Consumer:
    """One contraction, possibly called several times.

    Attributes:
        name: module path of the weight, path of the vector, or both layers of a product joined by ``@``.
        kind: ``"weight"``, ``"vector"`` or ``"product"``.
        sites: the calls that read its channels.
        cuts: the parameter entries that masking a channel sets to zero.
        hidden: which channels have hidden values (the others are raw inputs).
        blocks: the head of each channel, if its tensor has heads.
        channels: the identity of each channel, shared with other consumers that read it.
        homes: the number of the tensor that each channel belongs to.
        readings: the reading of every call, in the order of ``sites``; empty if no value shows what is read.
        unfitted: why its weights are never refitted; empty if they may be.
        recurrent: whether it reads states inside of a recurrent module; its sites are results that show these states.
    """

    name: str
    kind: str
    sites: list[fx.Node]
    cuts: list[Cut]
    hidden: Mask
    blocks: Positions | None
    channels: Positions
    homes: Positions = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    readings: list[Reading] = field(default_factory=list)
    unfitted: str = ""
    recurrent: bool = False

    @property
    def count(self) -> int:
        """Number of input channels."""
        return len(self.hidden)

    def weight(self, root: nn.Module) -> Tensor:
        """The weight as ``[out, in]``: one row per entry that a channel has; for a product, of both layers."""
        return torch.cat([_slab(root, cut) for cut in self.cuts])

    def reads(self, root: nn.Module) -> Mask:
        """Which channels have a nonzero weight."""
        live: Mask = (self.weight(root) != 0).any(dim=0).cpu().numpy()
        return live

    def zero(self, root: nn.Module, removed: Mask) -> None:
        """Set the entries of removed channels to zero, in place."""
        with torch.no_grad():
            for cut in self.cuts:
                parameter = own_parameter(root, cut.target)
                entries = cut.entries[removed].reshape(-1)
                index = torch.from_numpy(entries[entries >= 0]).to(parameter.device)
                flat = parameter.reshape(-1).index_fill(0, index, 0)  # a copy: a parameter may not be contiguous
                parameter.copy_(flat.view(parameter.shape))


def own_parameter(root: nn.Module, target: str) -> nn.Parameter:
    """A parameter by the name it has after ``torch.nn.utils.prune.remove``."""
    path, _, name = target.rpartition(".")
    masked = f"{name}_orig" in root.get_submodule(path)._parameters
    return root.get_parameter(f"{target}_orig" if masked else target)


def _slab(root: nn.Module, cut: Cut) -> Tensor:
    parameter = root.get_parameter(cut.target).detach()
    entries = torch.from_numpy(cut.entries.T.copy()).to(parameter.device)
    return torch.where(entries >= 0, parameter.reshape(-1)[entries.clamp(min=0)], parameter.new_zeros(()))


def merged(calls: Sequence[Consumer]) -> Consumer:
    """One consumer of all calls; channels of two calls are equal if they have the same column or the same identity.

    Calls of a shared module read the same columns. Calls with one weight per relation read the same channels.
    """
    first = calls[0]
    if len(calls) == 1:
        return first
    target = first.cuts[0].target
    lines = first.cuts[0].lines()
    channels, homes, blocks = first.channels, first.homes, first.blocks
    places = [np.arange(first.count)]
    for number, again in enumerate(calls[1:]):
        place, fresh = _places(lines, channels, again)
        places.append(place)
        total = len(channels) + int(fresh.sum())
        if blocks is not None:
            blocks = np.concatenate([blocks, np.zeros(total - len(blocks), dtype=np.int64)])
        channels, homes = np.concatenate([channels, again.channels[fresh]]), np.concatenate([homes, again.homes[fresh]])
        cuts = [(cut, places[0]) for cut in first.cuts[1:]] if number == 0 else []
        for cut, rows in (*cuts, *((cut, place) for cut in again.cuts)):
            if cut.target == target:
                lines = _common_lines(lines, cut.lines(), rows, total)
    total = len(channels)
    hidden = np.zeros(total, dtype=bool)
    for call, place in zip(calls, places, strict=True):
        hidden[place] |= call.hidden
    return Consumer(
        first.name,
        first.kind,
        [site for call in calls for site in call.sites],
        merged_cuts([(call.cuts, place) for call, place in zip(calls, places, strict=True)], total),
        hidden,
        blocks,
        channels,
        homes,
        [r.placed(place, total) for call, place in zip(calls, places, strict=True) for r in call.readings],
        first.unfitted,
        first.recurrent,
    )


def _places(lines: Positions, channels: Positions, again: Consumer) -> tuple[Positions, Mask]:
    """Return the place of each channel of a further call among those known, and which channels are new."""
    by_line = {line: c for c, line in enumerate(map(tuple, lines.tolist()))}
    by_channel = {channel: c for c, channel in enumerate(channels.tolist())}
    place = np.empty(again.count, dtype=np.int64)
    total = len(channels)
    for c, (line, channel) in enumerate(zip(again.cuts[0].lines().tolist(), again.channels.tolist(), strict=True)):
        known = by_channel.get(channel)
        own = by_line.get(tuple(line), known) if max(line) >= 0 else known  # its entries have an index in common
        place[c] = total if own is None else own
        total += own is None
    return place, place >= len(channels)


def _common_lines(lines: Positions, others: Positions, place: Positions, total: int) -> Positions:
    """Return the lines of channels that get further entries, with their own lines, at ``place`` of ``total``."""
    common = np.full((total, lines.shape[1]), -1, dtype=np.int64)
    common[: len(lines)] = lines
    fresh = place >= len(lines)
    common[place[fresh]] = others[fresh]
    old = place[~fresh]
    common[old] = np.where(common[old] == others[~fresh], common[old], -1)
    return common
