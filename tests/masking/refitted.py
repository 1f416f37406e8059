"""Models that are refitted on one batch, and least squares on explicit rows."""

import copy

import torch
from torch import nn

import upscale_fx
from tests.networks import random_graph
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.masking.calibration_data import CalibrationData
from upscale_fx.masking.consumers.survey import survey
from upscale_fx.masking.options import MaskOptions
from upscale_fx.masking.plan import Plan
from upscale_fx.masking.reconstruction.refit import Refit
from upscale_fx.masking.reconstruction.study import Study
from upscale_fx.masking.removals import plan_removals

WIDTH, HIDDEN, OUT, RELATIONS = 6, 12, 4, 3


def graph(nodes=150, seed=0):
    return random_graph(nodes, 5 * nodes, WIDTH, seed)


def refitted(model, arguments, amount=0.5, ridge=1e-13, kind=Refit):
    """The masked model by magnitudes, refitted on one batch, with hardly any ridge; and the plan."""
    traced = upscale_fx.trace(model, arguments)
    flow = analyse(traced)
    found = survey(flow)
    removals = plan_removals(found, traced, MaskOptions(amount=amount))
    batches = CalibrationData(arguments, None, traced)
    study = Study(flow, found.consumers, [removal.eligible for removal in removals], batches, progress=False)
    refit = kind(study, [removal.removed for removal in removals], ridge)
    plan = Plan(removals, refit.run(), refit.reasons)
    masked = copy.deepcopy(model)
    plan.apply(masked)
    return masked, plan


class Two(nn.Module):
    """Two layers with tanh between them, whose values are dense and independent."""

    def __init__(self, first, last):
        super().__init__()
        self.first, self.last = first, last

    def forward(self, x, *edges):
        return self.last(self.first(x, *edges).tanh(), *edges)


def two(conv, *outer, **options):
    torch.manual_seed(0)
    model = Two(conv(WIDTH, HIDDEN, *outer), conv(HIDDEN, OUT, *outer, **options)).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


class Checked(Refit):
    """A refit in which every problem's error is compared with that of its weights as they were."""

    def fit_problem(self, problem, moments, weight, kept):
        reason = super().fit_problem(problem, moments, weight, kept)
        found = problem.weight(self.working)

        def error(own):
            change = own - weight
            return float((change * (moments.gram @ change - 2 * moments.cross)).sum()) + moments.error

        if not getattr(problem, "scaled", ()):
            cut = kept[:, :, None]
            assert error(found * cut) <= error(weight * cut) * (1 + 1e-9) + 1e-9 * max(moments.error, 1e-9)
            self.checked = [*getattr(self, "checked", []), problem]
        return reason


def columns(*layers):
    """Which columns of layers are not zero."""
    return torch.cat([(layer.weight != 0).any(dim=0) for layer in layers])
