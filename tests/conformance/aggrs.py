"""Aggregations, between two linear layers: of a node's messages they would be called the same way."""

import torch
import torch_geometric.nn as gnn
from torch import nn
from torch_geometric.nn import aggr

from tests.conformance.case import Case
from tests.conformance.small import Between

INDEX = "x index=batch"
DEGREES = torch.tensor([1, 4, 6, 3, 1])


def limited(limit, sized=False):
    """A call with the largest number of elements given."""
    more = (lambda g: {"dim_size": g.graphs}) if sized else (lambda g: {})
    return lambda g: {"x": g.x, "index": g.batch, "max_num_elements": limit, **more(g)}


def between(module, how, build, call=INDEX, width=8, expect="pruned", why=""):
    return Case(module, how, lambda: Between(build(), width), call, expect, why)


def multi(mode, *aggrs, width=8, **mode_kwargs):
    return between("MultiAggregation", mode, lambda: aggr.MultiAggregation(
        list(aggrs) or ["mean", "max", "std"], mode=mode, mode_kwargs=mode_kwargs or None
    ), width=width)  # fmt: skip


def scaled(how, aggrs, scaler, width, **options):
    return between(
        "DegreeScalerAggregation",
        how,
        lambda: aggr.DegreeScalerAggregation(aggrs, scaler, DEGREES, **options),
        width=width,
    )


def attentional(how, gate, network=None, width=8):
    return between("AttentionalAggregation", how, lambda: aggr.AttentionalAggregation(gate(), network and network()),
                   width=width)  # fmt: skip


def mlp(*widths, **options):
    return gnn.MLP(list(widths), **{"norm": None, **options})


LOOP = "a Python loop over the largest number of elements"
BASIC = ("Sum", "Mean", "Max", "Min", "Mul", "Var", "Std", "Median", "VariancePreserving", "Softmax", "PowerMean")

CASES = [
    *(between(f"{name}Aggregation", "index", getattr(aggr, f"{name}Aggregation")) for name in BASIC),
    Case("SumAggregation", "alone", aggr.SumAggregation, INDEX, "nothing"),
    Case("SoftmaxAggregation", "alone", aggr.SoftmaxAggregation, INDEX, "nothing"),
    Case("MedianAggregation", "alone", aggr.MedianAggregation, INDEX, "nothing"),
    *(between(f"{name}Aggregation", "all in one", getattr(aggr, f"{name}Aggregation"), "x")
      for name in ("Sum", "Mean", "Max", "Softmax", "Median")),
    *(between(f"{name}Aggregation", "ptr", getattr(aggr, f"{name}Aggregation"), "x ptr")
      for name in ("Sum", "Mean", "Max", "Std", "Softmax", "VariancePreserving")),
    *(between(f"{name}Aggregation", "dim_size", getattr(aggr, f"{name}Aggregation"), f"{INDEX} dim_size=batch_size")
      for name in ("Sum", "Mean", "Std", "Softmax", "PowerMean", "Median", "VariancePreserving")),
    between("MeanAggregation", "index and ptr", aggr.MeanAggregation, f"{INDEX} ptr"),
    between("SumAggregation", "dim 0", aggr.SumAggregation, lambda g: {"x": g.x, "index": g.batch, "dim": 0}),
    between("MaxAggregation", "three dimensions", aggr.MaxAggregation,
            lambda g: {"x": g.features(4, g.nodes, 8), "index": g.batch, "dim": -2}),
    between("StdAggregation", "three dimensions dim 0", aggr.StdAggregation,
            lambda g: {"x": g.features(g.nodes, 4, 8), "index": g.batch, "dim": 0}),
    between("VarAggregation", "semi_grad", lambda: aggr.VarAggregation(semi_grad=True)),
    between("StdAggregation", "semi_grad", lambda: aggr.StdAggregation(semi_grad=True)),
    between("SoftmaxAggregation", "t", lambda: aggr.SoftmaxAggregation(t=0.3)),
    between("SoftmaxAggregation", "learn", lambda: aggr.SoftmaxAggregation(learn=True)),
    between("SoftmaxAggregation", "channels", lambda: aggr.SoftmaxAggregation(learn=True, channels=8)),
    between("SoftmaxAggregation", "semi_grad", lambda: aggr.SoftmaxAggregation(t=2.0, semi_grad=True)),
    between("PowerMeanAggregation", "p", lambda: aggr.PowerMeanAggregation(p=2.0)),
    between("PowerMeanAggregation", "learn", lambda: aggr.PowerMeanAggregation(p=1.5, learn=True)),
    between("PowerMeanAggregation", "channels", lambda: aggr.PowerMeanAggregation(learn=True, channels=8)),
    between("PowerMeanAggregation", "clamp", lambda: aggr.PowerMeanAggregation(3.0, clamp_min=0.1, clamp_max=5.0)),
    *(between("QuantileAggregation", how, lambda how=how: aggr.QuantileAggregation(0.3, how))
      for how in ("linear", "lower", "higher", "nearest", "midpoint")),
    between("QuantileAggregation", "several", lambda: aggr.QuantileAggregation([0.25, 0.75]), width=16),
    between("MedianAggregation", "fill_value", lambda: aggr.MedianAggregation(fill_value=1.0),
            lambda g: {"x": g.x, "index": g.batch * 2}),
    multi("cat", width=24),
    multi("proj", in_channels=8, out_channels=8),
    multi("attn", in_channels=8, out_channels=8, num_heads=2),
    *(multi(mode) for mode in ("sum", "mean", "max", "min", "logsumexp", "std", "var")),
    between("MultiAggregation", "one", lambda: aggr.MultiAggregation(["mean"])),
    between("MultiAggregation", "other kinds", lambda: aggr.MultiAggregation(["softmax", "median", "sum"]), width=24),
    between("MultiAggregation", "aggrs_kwargs", lambda: aggr.MultiAggregation(
        ["softmax", "powermean"], [{"learn": True}, {"p": 2.0}]), width=16),
    between("MultiAggregation", "ptr", lambda: aggr.MultiAggregation(["mean", "max"]), "x ptr", 16),
    between("MultiAggregation", "dim_size", lambda: aggr.MultiAggregation(["mean", "max"]),
            f"{INDEX} dim_size=batch_size", 16),
    scaled("identity", "mean", "identity", 8),
    scaled("three scalers", ["mean", "max"], ["identity", "amplification", "attenuation"], 48),
    scaled("linear", ["mean", "std"], ["linear", "inverse_linear"], 32),
    scaled("train_norm", ["sum"], ["amplification", "linear"], 16, train_norm=True),
    attentional("gate", lambda: nn.Linear(8, 1)),
    attentional("gate per channel", lambda: nn.Linear(8, 8)),
    attentional("MLP", lambda: mlp(8, 8, 1), lambda: mlp(8, 8, 5), 5),
    attentional("MLP with norm", lambda: mlp(8, 8, 1, norm="graph_norm"), lambda: mlp(8, 8, 5, norm="layer_norm"), 5),
    between("DeepSetsAggregation", "local", lambda: aggr.DeepSetsAggregation(mlp(8, 8, 8), nn.Linear(8, 8))),
    between("DeepSetsAggregation", "global", lambda: aggr.DeepSetsAggregation(None, mlp(8, 8, 8))),
    Case("DeepSetsAggregation", "alone", lambda: aggr.DeepSetsAggregation(nn.Linear(8, 8), nn.Linear(8, 6)), INDEX),
    between("Set2Set", "plain", lambda: aggr.Set2Set(8, 2), width=16),
    between("Set2Set", "num_layers", lambda: aggr.Set2Set(8, 3, num_layers=2), f"{INDEX} dim_size=batch_size", 16),
    between("LSTMAggregation", "plain", lambda: aggr.LSTMAggregation(8, 8)),
    between("LSTMAggregation", "max_num_elements", lambda: aggr.LSTMAggregation(8, 8, num_layers=2), limited(12, True)),
    between("LSTMAggregation", "bidirectional", lambda: aggr.LSTMAggregation(8, 8, bidirectional=True), width=16),
    between("GRUAggregation", "plain", lambda: aggr.GRUAggregation(8, 8)),
    between("GRUAggregation", "max_num_elements", lambda: aggr.GRUAggregation(8, 8), limited(12)),
    between("SortAggregation", "plain", lambda: aggr.SortAggregation(3), width=24),
    between("SortAggregation", "max_num_elements", lambda: aggr.SortAggregation(3), limited(12, True), 24),
    between("SortAggregation", "padded", lambda: aggr.SortAggregation(14), limited(12), 112),
    between("GraphMultisetTransformer", "plain", lambda: aggr.GraphMultisetTransformer(8, 3)),
    between("GraphMultisetTransformer", "heads", lambda: aggr.GraphMultisetTransformer(8, 3, 2, 2, layer_norm=True)),
    between("GraphMultisetTransformer", "max_num_elements", lambda: aggr.GraphMultisetTransformer(8, 3), limited(12)),
    between("SetTransformerAggregation", "plain", lambda: aggr.SetTransformerAggregation(8)),
    between("SetTransformerAggregation", "seeds", lambda: aggr.SetTransformerAggregation(8, 2, 1, 2, 2), width=16),
    between("SetTransformerAggregation", "concat False", lambda: aggr.SetTransformerAggregation(
        8, 2, concat=False, layer_norm=True), limited(12, True)),
    between("MLPAggregation", "plain", lambda: aggr.MLPAggregation(8, 8, 5, hidden_channels=8, num_layers=2)),
    between("MLPAggregation", "dim_size", lambda: aggr.MLPAggregation(8, 8, 5, num_layers=1),
            f"{INDEX} dim_size=batch_size"),
    between("LCMAggregation", "plain", lambda: aggr.LCMAggregation(8, 8), expect="refused", why=LOOP),
    between("LCMAggregation", "max_num_elements", lambda: aggr.LCMAggregation(8, 8), limited(6)),
    between("LCMAggregation", "project False", lambda: aggr.LCMAggregation(8, 8, project=False), limited(5, True)),
    between("EquilibriumAggregation", "plain", lambda: aggr.EquilibriumAggregation(8, 8, [5]), expect="refused",
            why="it differentiates inside forward"),
    between("PatchTransformerAggregation", "plain", lambda: aggr.PatchTransformerAggregation(8, 8, 2, 8)),
    between("PatchTransformerAggregation", "aggrs", lambda: aggr.PatchTransformerAggregation(
        8, 8, 2, 8, 2, 2, aggr=["mean", "max", "std"]), limited(12)),
]  # fmt: skip
