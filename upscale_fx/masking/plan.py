"""Pruning by what a model computes: calibration data, criteria that read it, and the refit of the weights that stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Mask
from upscale_fx.compiled.batches import Batches, arguments_of
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.progress import progress_bar
from upscale_fx.compiled.signatures import signature_of
from upscale_fx.errors import NothingToPruneError, PatternError
from upscale_fx.masking.allocation.allocate import Allocation
from upscale_fx.masking.allocation.call_rows import CallRows, rows_in_call
from upscale_fx.masking.allocation.cost import Measured
from upscale_fx.masking.consumers.pools import Pool, Removal, removable, shared_pools
from upscale_fx.masking.consumers.schemes import eligible_channels
from upscale_fx.masking.consumers.survey import Survey
from upscale_fx.masking.criteria import OBS, OutputCriterion, ReconstructionCriterion, resolve_criterion
from upscale_fx.masking.criteria.labels import without_labels
from upscale_fx.masking.options import MaskOptions
from upscale_fx.masking.reconstruction.errors import Choice, energies, magnitudes, reconstruction_errors, units_of
from upscale_fx.masking.reconstruction.gather import put_back
from upscale_fx.masking.reconstruction.refit import Refit
from upscale_fx.masking.reconstruction.study import Study
from upscale_fx.masking.removals import nothing_to_prune, plan_removals


class Arguments:
    """Calibration batches as the arguments of a traced graph, by name; can be gone over any number of times."""

    def __init__(self, calibration: Any, transform: Callable[[Any], Any] | None, model: CompiledGNN) -> None:
        self.batches = calibration if isinstance(calibration, Batches) else Batches(calibration, replay=True)
        self.transform = transform
        self._model = model

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for _, arguments in self.with_batches():
            yield arguments

    def with_batches(self) -> Iterator[tuple[Any, Mapping[str, Any]]]:
        """Every batch as the user gave it, and its arguments."""
        for batch in self.batches:
            given = without_labels(batch, self._model) if self.transform is None else batch
            args, kwargs = arguments_of(given, self._model, self.transform)
            yield batch, signature_of(self._model).bind(*args, **kwargs).arguments

    def __len__(self) -> int:
        return len(self.batches)


@dataclass
class Plan:
    """What pruning does to a model: removed channels, and parameters that take new values.

    Attributes:
        removals: for each consumer, what it loses.
        parameters: refitted parameters by name, removed channels zero.
        notes: by the names of consumers, why their weights were not refitted.
        chosen: how channels were chosen, for people.
    """

    removals: list[Removal]
    parameters: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    chosen: str = ""

    def apply(self, root: nn.Module) -> None:
        """Do it, in place, to a traced graph or to the model it was traced from."""
        for name, value in self.parameters.items():
            put_back(root, name, value)
        for removal in self.removals:
            removal.consumer.zero(root, removal.removed)


def make_plan(flow: Dataflow, found: Survey, options: MaskOptions, measured: Measured | None = None) -> Plan:
    """Choose what every consumer of an analysed graph loses, and refit what it keeps, if there is calibration data.

    Args:
        flow: the analysed graph.
        found: its consumers.
        options: what was asked for.
        measured: for a budget, what the compacted model costs, given what goes.

    Raises:
        InputError: the calibration data gives nothing, does not fit the model or makes activations that are not finite.
        AmountError, PatternError, NothingToPruneError: see :func:`upscale_fx.mask`.
    """
    root = flow.module
    assert isinstance(root, CompiledGNN)
    batches = None if options.calibration is None else Arguments(options.calibration, options.transform, root)
    calibrated = _Calibrated(flow, found, options, batches)
    if options.budget is not None:
        assert measured is not None
        removals = calibrated.spend(measured)
    else:
        removals = plan_removals(found, root, options, None if batches is None else calibrated.rank, calibrated.allowed)
    chosen = _told(options, batches)
    if batches is None or not options.refit:
        return Plan(removals, chosen=chosen)
    refit = Refit(calibrated.study(removals), [removal.removed for removal in removals])
    parameters = refit.run()
    notes = {found.consumers[number].name: reason for number, reason in refit.reasons.items()}
    return Plan(removals, parameters, notes, chosen)


def _told(options: MaskOptions, batches: Arguments | None) -> str:
    """How channels are chosen, in words; nothing where weights alone decide, layer by layer."""
    if batches is None and options.budget is None and options.scheme is None:
        return ""
    criterion = resolve_criterion(options.criterion, batches is not None)
    name = getattr(criterion, "__name__", type(criterion).__name__.lower())
    parts = [f"by {name}"]
    if batches is not None:
        parts.append("calibrated" + (", weights that stay refitted" if options.refit else ", weights as they were"))
    parts += [f"within Budget({options.budget})"] if options.budget is not None else []
    parts += [f"scheme {options.scheme!r}"] if options.scheme is not None else []
    return ", ".join(parts)


@dataclass
class _Calibrated:
    """Ranks units by what the model computes."""

    flow: Dataflow
    found: Survey
    options: MaskOptions
    batches: Arguments | None
    known: Study | None = None

    @property
    def allowed(self) -> dict[str, Mask] | None:
        """Which channels may go under a scheme; None without one."""
        scheme = self.options.scheme
        return None if scheme is None else eligible_channels(self.flow, self.found, scheme)

    def study(self, removals: Sequence[Removal]) -> Study:
        """The least-squares problems of the model, made once."""
        if self.known is None:
            eligible = [removal.eligible for removal in removals]
            options, batches = self.options, self.batches if self.batches is not None else ()
            self.known = Study(self.flow, self.found.consumers, eligible, batches, options.seed, options.progress)
        return self.known

    def spend(self, measured: Measured) -> list[Removal]:
        """What every consumer loses for a budget."""
        options, root = self.options, self.flow.module
        criterion = resolve_criterion(options.criterion, self.batches is not None)
        if options.criterion is not None and not isinstance(criterion, OBS):
            raise PatternError(f"a budget is spent by reconstruction errors (criterion 'obs'), not by {criterion!r}")
        budget = options.budget
        assert budget is not None
        budget = replace(budget, sharing="always") if options.constrained else budget
        removals = plan_removals(self.found, root, replace(options, amount=0.0, budget=None), allowed=self.allowed)
        if not any(removal.eligible.any() for removal in removals):
            raise NothingToPruneError(nothing_to_prune(removals, self.found.refused))
        study, arguments = self.study(removals), None
        pools = shared_pools(removals, energies(removals, root), partly=True)
        if self.batches is not None:
            study.observe()
            arguments = next(iter(self.batches))
            if any(len(pool.blocks) > 1 for pool in pools):
                for pool in pools:
                    pool.amount = 1.0
                self._by_reconstruction(OBS(), study, removals, pools, to_the_end=True)
        elif budget.unit == "macs":
            raise PatternError("Budget(macs=...) counts the multiply-adds of a call: pass calibration=(x, edge_index)")
        rows = CallRows() if budget.unit != "macs" or arguments is None else rows_in_call(self.flow, arguments)
        Allocation(study, removals, pools, budget, OBS().ridge, rows).spend(measured)
        return removals

    def rank(self, removals: Sequence[Removal], pools: Sequence[Pool], options: MaskOptions) -> None:
        """Set the scores of all units."""
        criterion = resolve_criterion(options.criterion, calibrated=True)
        if isinstance(criterion, ReconstructionCriterion):
            study = self.study(removals)
            study.observe()
            self._by_reconstruction(criterion, study, removals, pools, options.scope == "global")
        elif isinstance(criterion, OutputCriterion):
            self._by_outputs(criterion, removals, pools)

    def _by_outputs(self, criterion: OutputCriterion, removals: Sequence[Removal], pools: Sequence[Pool]) -> None:
        assert self.batches is not None
        bar = progress_bar(
            self.batches.with_batches(), desc="calibrating", total=self.batches.batches.length, leave=False,
            unit="batch", shown=self.options.progress,
        )  # fmt: skip
        scores = criterion.observe(self.flow, removals, bar, self.options.seed)
        shared = self.options.constrained  # readers of a tensor count alike
        scale = [max(float(own.mean()), 1e-300) if shared else 1.0 for own in scores]
        for unit in (unit for pool in pools for block in pool.blocks for unit in block):
            unit.score = float(sum(scores[number][channel] / scale[number] for number, channel in unit.members))

    def _by_reconstruction(
        self,
        criterion: ReconstructionCriterion,
        study: Study,
        removals: Sequence[Removal],
        pools: Sequence[Pool],
        to_the_end: bool,
    ) -> None:
        options = self.options
        units, numbers = units_of(pools)
        counts = np.bincount(numbers) if len(numbers) else np.zeros(0, dtype=np.int64)
        amounts = [pool.amount for pool in pools for _ in pool.blocks]
        quotas = np.array([
            (count - 1 if amount > 0 else 0) if to_the_end else removable(count, amount, options.round_to)
            for count, amount in zip(counts.tolist(), amounts, strict=True)
        ], dtype=np.int64)  # fmt: skip
        errors = reconstruction_errors(study, units, criterion.ridge)
        scores = criterion.rank(Choice(errors, numbers, quotas, magnitudes(energies(removals, study.root), units)))
        for unit, score in zip(units, scores.tolist(), strict=True):
            unit.score = score
