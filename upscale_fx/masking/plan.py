"""The plan of pruning a model: the channels to remove, and the new values of kept weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.progress import stage
from upscale_fx.masking.allocation.cost import Measured
from upscale_fx.masking.budgeted import spend_budget
from upscale_fx.masking.calibrated import Calibrated
from upscale_fx.masking.calibration_data import CalibrationData
from upscale_fx.masking.consumers.pools import Removal
from upscale_fx.masking.consumers.survey import Survey
from upscale_fx.masking.criteria import resolve_criterion
from upscale_fx.masking.options import MaskOptions
from upscale_fx.masking.reconstruction.parameters import set_parameter
from upscale_fx.masking.reconstruction.refit import Refit
from upscale_fx.masking.removals import plan_removals


@dataclass
class Plan:
    """The channels to remove from a model, and the new values of its parameters.

    Attributes:
        removals: for each consumer, the channels it loses.
        parameters: refitted parameters by name, with zeros for removed channels.
        notes: by the names of consumers, why their weights were not refitted.
        chosen: how channels were chosen, as text.
    """

    removals: list[Removal]
    parameters: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    chosen: str = ""

    def apply(self, root: nn.Module) -> None:
        """Apply the plan, in place, to a traced graph or to the model it was traced from."""
        for name, value in self.parameters.items():
            set_parameter(root, name, value)
        for removal in self.removals:
            removal.consumer.zero(root, removal.removed)


def make_plan(flow: Dataflow, found: Survey, options: MaskOptions, measured: Measured | None = None) -> Plan:
    """Choose the channels that every consumer loses, and refit the kept weights if there is calibration data.

    Args:
        flow: the analysed graph.
        found: its consumers.
        options: the options of the call.
        measured: for a budget, computes the cost of the compacted model from the removed channels.

    Raises:
        InputError: the calibration data is empty, does not fit the model, or gives activations that are not finite.
        AmountError, PatternError, NothingToPruneError: see :func:`upscale_fx.mask`.
    """
    stage("choosing channels")
    root = flow.module
    assert isinstance(root, CompiledGNN)
    data = None if options.calibration is None else CalibrationData(options.calibration, options.transform, root)
    calibrated = Calibrated(flow, found, options, data)
    if options.budget is not None:
        assert measured is not None
        removals = spend_budget(calibrated, options.budget, measured)
    else:
        ranking = None if data is None else calibrated.rank
        removals = plan_removals(found, root, options, ranking, calibrated.allowed)
    plan = Plan(removals, chosen=_how_chosen(options))
    if data is not None and options.refit:
        refit = Refit(calibrated.study(removals), [removal.removed for removal in removals])
        plan.parameters = refit.run()
        plan.notes = {found.consumers[number].name: reason for number, reason in refit.reasons.items()}
    return plan


def _how_chosen(options: MaskOptions) -> str:
    """How channels are chosen, as text; empty where only weights decide, layer by layer."""
    calibrated = options.calibration is not None
    if not calibrated and options.budget is None and options.scheme is None:
        return ""
    criterion = resolve_criterion(options.criterion, calibrated)
    name = getattr(criterion, "__name__", type(criterion).__name__.lower())
    parts = [f"by {name}"]
    if calibrated:
        parts.append("calibrated" + (", weights that stay refitted" if options.refit else ", weights as they were"))
    parts += [f"within Budget({options.budget})"] if options.budget is not None else []
    parts += [f"scheme {options.scheme!r}"] if options.scheme is not None else []
    return ", ".join(parts)
