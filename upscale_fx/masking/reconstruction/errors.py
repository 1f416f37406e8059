"""Reconstruction errors as functions of the removed channels, from which calibrated criteria choose.

For every block of every problem the error is ``|X W - X W0|^2 + r |W - W0|^2``, a quadratic in the weights
``W [V, O]``, with the variables of each unit of channels. Divided by ``scale``, the energy of the outputs around their
mean, errors of different problems can be compared and added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, fx, nn

from upscale_fx.analysis.identity import channel_ids
from upscale_fx.channels.positions import Numbers, Positions
from upscale_fx.masking.consumers.pools import Pool, Removal, Unit
from upscale_fx.masking.reconstruction.moments import Moments
from upscale_fx.masking.reconstruction.problem import Problem
from upscale_fx.masking.reconstruction.solve import regularised
from upscale_fx.masking.reconstruction.study import Study


@dataclass(frozen=True)
class ReconstructionError:
    """One block of one least-squares problem.

    Attributes:
        gram: ``[V, V]``, the moments ``X'X`` of its inputs.
        left: ``[V, V]``, ``X'X`` with the ridge: the Hessian.
        weight: ``[V, O]``, the dense model's weights ``W0``, at which the error is 0.
        scale: energy of the outputs around their mean.
        units: ``[U]``, the numbers of the units with variables in this block.
        variables: ``[U, S]``, these variables, padded with -1.
        outputs: ``[O]``, the channel of each output; None where outputs are not channels (logits, gates).
        problem: number of the problem in the study.
    """

    gram: Numbers
    left: Numbers
    weight: Numbers
    scale: float
    units: Positions
    variables: Positions
    outputs: Positions | None
    problem: int


@dataclass(frozen=True)
class Choice:
    """The input of a calibrated criterion.

    Attributes:
        errors: the reconstruction errors.
        pools: ``[U]``, for every unit the number of its block (of a pool).
        quotas: how many units of each block are removed.
        magnitudes: ``[U]``, the energy of each unit's weights as a share of their layers', for units without an error.
    """

    errors: Sequence[ReconstructionError]
    pools: Positions
    quotas: Positions
    magnitudes: Numbers

    @property
    def unseen(self) -> Numbers:
        """``[U]``: the magnitude of units without an error, 0 for the others."""
        seen = np.zeros(len(self.pools), dtype=bool)
        for error in self.errors:
            seen[error.units] = True
        return np.where(seen, 0.0, self.magnitudes)


def units_of(pools: Sequence[Pool]) -> tuple[list[Unit], Positions]:
    """All units of all blocks, with the number of the block of each."""
    units, numbers, number = [], [], 0
    for pool in pools:
        for block in pool.blocks:
            units += block
            numbers += [number] * len(block)
            number += 1
    return units, np.array(numbers, dtype=np.int64)


def reconstruction_errors(study: Study, units: Sequence[Unit], ridge: float) -> list[ReconstructionError]:
    """The errors of all problems with variables of a unit."""
    owner = {member: number for number, unit in enumerate(units) for member in unit.members}
    ids = channel_ids(study.flow, through_cat=True)
    errors = []
    for problem, moments in zip(study.problems, study.moments, strict=True):
        if moments is None:
            continue
        weight = problem.weight(study.root)
        left = regularised(moments.gram, ridge, problem.variables[..., 0] < 0)
        scale = _scale(moments, weight)
        for block, variables in enumerate(problem.variables):
            places: dict[int, list[int]] = {}
            for place, (consumer, channel) in enumerate(variables.tolist()):
                if (consumer, channel) in owner:
                    places.setdefault(owner[consumer, channel], []).append(place)
            if places:
                errors.append(
                    ReconstructionError(
                        moments.gram[block].numpy(), left[block].numpy(), weight[block].numpy(), scale,
                        np.array(list(places), dtype=np.int64), _padded(list(places.values())),
                        _outputs(problem, ids, weight.shape[2]), problem.number,
                    )
                )  # fmt: skip
    return errors


def _outputs(problem: Problem, ids: Mapping[fx.Node, Positions], count: int) -> Positions | None:
    """The channels of a problem's outputs, if each output is one; else None."""
    channels = None if problem.target is None else ids.get(problem.target)
    return channels if channels is not None and len(channels) == count else None


def _scale(moments: Moments, weight: Tensor) -> float:
    return max(moments.spread(weight), np.finfo(float).tiny ** 0.5)


def _padded(rows: Sequence[Sequence[int]]) -> Positions:
    padded = np.full((len(rows), max(len(row) for row in rows)), -1, dtype=np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded


def energies(removals: Sequence[Removal], root: nn.Module) -> list[Numbers]:
    """For each consumer ``[in]``: the sum of the squared weights of each channel."""
    return [removal.consumer.weight(root).double().square().sum(dim=0).cpu().numpy() for removal in removals]


def magnitudes(squared: Sequence[Numbers], units: Sequence[Unit]) -> Numbers:
    """``[U]``: squared weights of every unit as a share of those of its layers; see :func:`energies`."""
    share = [energy / max(float(energy.sum()), np.finfo(float).tiny) for energy in squared]
    return np.array([sum(share[number][channel] for number, channel in unit.members) for unit in units])
