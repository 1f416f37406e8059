"""A consumer: the calls that read channels, and the parameter entries that masking a channel sets to zero."""

from __future__ import annotations

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
        readings: the reading of every call, in the order of ``sites``.
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


def merged(known: Consumer, again: Consumer) -> Consumer:
    """One consumer of two calls, whose channels are equal if they have the same column or the same identity.

    Calls of a shared module read the same columns. Calls with one weight per relation read the same channels.
    """
    by_line = {line: c for c, line in enumerate(known.cuts[0].lines())}
    by_channel = {int(channel): c for c, channel in enumerate(known.channels)}
    lines = again.cuts[0].lines()
    place = np.empty(again.count, dtype=np.int64)
    total = known.count
    for c in range(again.count):
        own = by_line.get(lines[c], by_channel.get(int(again.channels[c])))
        place[c] = total if own is None else own
        total += own is None
    fresh = place >= known.count
    blocks = known.blocks
    if blocks is not None and fresh.any():
        blocks = np.concatenate([blocks, np.zeros(int(fresh.sum()), dtype=np.int64)])
    merged_hidden = np.concatenate([known.hidden, np.zeros(int(fresh.sum()), dtype=bool)])
    merged_hidden[place] |= again.hidden
    return Consumer(
        known.name,
        known.kind,
        known.sites + again.sites,
        merged_cuts(known.cuts, again.cuts, place, total),
        merged_hidden,
        blocks,
        np.concatenate([known.channels, again.channels[fresh]]),
        np.concatenate([known.homes, again.homes[fresh]]),
        [reading.placed(np.arange(known.count), total) for reading in known.readings]
        + [reading.placed(place, total) for reading in again.readings],
    )
