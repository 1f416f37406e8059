"""Ranks channels by the activations of a model on calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Mask, Positions
from upscale_fx.compiled.progress import progress_bar
from upscale_fx.masking.calibration_data import CalibrationData
from upscale_fx.masking.consumers.pools import Pool, Removal, removable
from upscale_fx.masking.consumers.schemes import eligible_channels
from upscale_fx.masking.consumers.survey import Survey
from upscale_fx.masking.criteria import OutputCriterion, ReconstructionCriterion, resolve_criterion
from upscale_fx.masking.options import MaskOptions
from upscale_fx.masking.reconstruction.errors import Choice, energies, magnitudes, reconstruction_errors, units_of
from upscale_fx.masking.reconstruction.study import Study


@dataclass
class Calibrated:
    """An analysed graph with its calibration data, and the study of both, made once.

    Attributes:
        flow: the analysed graph.
        survey: its consumers.
        options: the options of the call.
        data: the calibration data, or None.
    """

    flow: Dataflow
    survey: Survey
    options: MaskOptions
    data: CalibrationData | None
    _study: Study | None = field(init=False, default=None)

    @property
    def allowed(self) -> dict[str, Mask] | None:
        """By the names of consumers, the channels that a scheme can remove; None without a scheme."""
        scheme = self.options.scheme
        return None if scheme is None else eligible_channels(self.flow, self.survey, scheme)

    def study(self, removals: Sequence[Removal]) -> Study:
        """The least-squares problems of the graph, found once; ``removals`` hold the eligible channels."""
        if self._study is None:
            eligible = [removal.eligible for removal in removals]
            data, options = self.data if self.data is not None else (), self.options
            self._study = Study(self.flow, self.survey.consumers, eligible, data, options.seed, options.progress)
        return self._study

    def rank(self, removals: Sequence[Removal], pools: Sequence[Pool]) -> None:
        """Set the scores of all units by a calibrated criterion; one that reads only weights leaves them."""
        criterion = resolve_criterion(self.options.criterion, calibrated=True)
        if isinstance(criterion, ReconstructionCriterion):
            self.study(removals).observe()
            self.rank_by_reconstruction(criterion, removals, pools, self.options.scope == "global")
        elif isinstance(criterion, OutputCriterion):
            self._rank_by_outputs(criterion, removals, pools)

    def rank_by_reconstruction(
        self,
        criterion: ReconstructionCriterion,
        removals: Sequence[Removal],
        pools: Sequence[Pool],
        to_the_end: bool,
    ) -> None:
        """Set the scores of all units by reconstruction errors; :meth:`Study.observe` comes first.

        Args:
            criterion: the criterion.
            removals: the eligible channels.
            pools: the units; their scores are set.
            to_the_end: rank all units but one of each block, not only as many as the amounts remove.
        """
        study = self.study(removals)
        units, numbers = units_of(pools)
        quotas = _quotas(pools, to_the_end, self.options.round_to)
        errors = reconstruction_errors(study, units, criterion.ridge)
        scores = criterion.rank(Choice(errors, numbers, quotas, magnitudes(energies(removals, study.root), units)))
        for unit, score in zip(units, scores.tolist(), strict=True):
            unit.score = score

    def _rank_by_outputs(self, criterion: OutputCriterion, removals: Sequence[Removal], pools: Sequence[Pool]) -> None:
        """Set the scores of all units by a criterion that runs the model."""
        assert self.data is not None
        bar = progress_bar(
            self.data.with_batches(),
            shown=self.options.progress,
            desc="calibrating",
            total=self.data.batches.length,
            leave=False,
            unit="batch",
        )
        scores = criterion.observe(self.flow, removals, bar, self.options.seed)
        shared = self.options.constrained  # all readers of a tensor have equal weight
        scale = [max(float(own.mean()), 1e-300) if shared else 1.0 for own in scores]
        for unit in (unit for pool in pools for block in pool.blocks for unit in block):
            unit.score = float(sum(scores[number][channel] / scale[number] for number, channel in unit.members))


def _quotas(pools: Sequence[Pool], to_the_end: bool, round_to: int) -> Positions:
    """For every block of every pool, how many of its units are removed."""
    quotas = []
    for pool in pools:
        for block in pool.blocks:
            if to_the_end:
                quotas.append(len(block) - 1 if pool.amount > 0 else 0)
            else:
                quotas.append(removable(len(block), pool.amount, round_to))
    return np.array(quotas, dtype=np.int64)
