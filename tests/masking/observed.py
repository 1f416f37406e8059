"""Graphs with labels, what a criterion observes on them, and which channels stay."""

import numpy as np
import torch
from torch_geometric.data import Data

import upscale_fx
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.masking.calibration_data import CalibrationData
from upscale_fx.masking.consumers.survey import survey
from upscale_fx.masking.options import MaskOptions
from upscale_fx.masking.removals import plan_removals


def graph(seed=0, nodes=120, width=10, classes=5):
    draw = torch.Generator().manual_seed(seed)
    loops = torch.arange(nodes).repeat(2, 1)
    return Data(
        x=torch.randn(nodes, width, generator=draw),
        edge_index=torch.cat([torch.randint(nodes, (2, 5 * nodes), generator=draw), loops], dim=1),
        y=torch.randint(classes, (nodes,), generator=draw),
    )


def kept(model, name):
    """Which input channels a layer still reads."""
    return np.flatnonzero((dict(model.named_modules())[name].weight != 0).any(dim=0).numpy()).tolist()


def observed(criterion, model, batches, name, seed=0):
    """The scores of one layer's channels."""
    traced = upscale_fx.trace(model)
    flow = analyse(traced)
    options = MaskOptions(amount=0.5)
    removals = plan_removals(survey(flow), traced, options)
    pairs = list(CalibrationData(batches, None, traced).with_batches())
    scores = criterion.observe(flow, removals, pairs, seed)
    return next(own for own, removal in zip(scores, removals, strict=True) if removal.consumer.name == name)
