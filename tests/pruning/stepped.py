"""Models that are pruned in steps, and what is left of the original after each."""

import copy
import functools

import torch
from torch import nn
from torch_geometric.nn.models import GAT

import upscale_fx
from tests.networks import Residual
from tests.zoo import randomise
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.compiled.module import unfused
from upscale_fx.masking.consumers.survey import survey
from upscale_fx.masking.options import MaskOptions
from upscale_fx.models import SAGE, GATv2, GraphTransformer, JKNet, SimpleGCN
from upscale_fx.pruning.steps import StepOptions, prune_in_steps

INPUT, WIDTH, OUTPUT = 12, 32, 5
MODELS = {
    "GCN": lambda: SimpleGCN(INPUT, WIDTH, OUTPUT),
    "SAGE": lambda: SAGE(INPUT, WIDTH, OUTPUT),
    "GAT": lambda: GAT(INPUT, WIDTH, 3, OUTPUT, heads=4),
    "GATv2": lambda: GATv2(INPUT, WIDTH, OUTPUT, num_layers=2),
    "TransformerConv": lambda: GraphTransformer(INPUT, WIDTH, OUTPUT, num_layers=2),
    "JKNet": lambda: JKNet(INPUT, WIDTH, OUTPUT),
    "residual GCN": lambda: Residual(INPUT, WIDTH, OUTPUT),
}


def make(name):
    torch.manual_seed(0)
    model = MODELS[name]().double()
    randomise(model)
    return model.eval()


def kept(model):
    """By consumer, how many hidden channels meet a weight that is not zero."""
    gm = unfused(model)
    return {c.name: int((c.hidden & c.reads(gm)).sum()) for c in survey(analyse(gm)).consumers}


def original(model):
    """By consumer, how many hidden channels each head has."""
    counts = {}
    for consumer in survey(analyse(upscale_fx.trace(model))).consumers:
        blocks = consumer.blocks if consumer.blocks is not None else consumer.hidden * 0
        found = [int((consumer.hidden & (blocks == block)).sum()) for block in sorted(set(blocks.tolist()))]
        counts[consumer.name] = [count for count in found if count]
    return counts


def in_steps(model, amount, steps=3, between=None, schedule="cubic", options=None, **told):
    options = options or {}
    how = StepOptions(steps=steps, schedule=schedule, between=between, progress=False)
    return prune_in_steps(
        model, MaskOptions(amount=amount, **told), how, lambda m, a: upscale_fx.prune(m, a, **options)
    )


@functools.cache
def once(name, amount, constrained=False):
    """A model pruned by one call; shared, so not to be changed."""
    return upscale_fx.prune(make(name), amount, constrained=constrained)


@functools.cache
def stepwise(name, amount, constrained=False):
    """A model pruned in three steps; shared, so not to be changed."""
    return in_steps(make(name), amount, options={"constrained": constrained}, constrained=constrained)


def train_on(x, edge_index, y, seen=None):
    """A function that trains for three epochs and notes the losses before and after, without dropout."""

    def loss_of(compiled):
        return nn.functional.cross_entropy(compiled(x, edge_index), y)

    def between(compiled, step):
        optimizer = torch.optim.Adam(compiled.parameters(), lr=0.01)
        losses = [float(loss_of(compiled.eval()).detach())]
        compiled.train()
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(compiled).backward()
            optimizer.step()
        losses.append(float(loss_of(compiled.eval()).detach()))
        compiled.train()  # modes that are left behind are put back
        if seen is not None:
            seen.append((step, compiled, losses, copy.deepcopy(compiled.state_dict())))

    return between
