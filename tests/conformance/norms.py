"""Normalisation, by itself (nothing to prune) and between two linear layers."""

from functools import partial

import torch_geometric.nn as gnn

from tests.conformance.case import Case
from tests.conformance.small import Between

GRAPH, SIZED = "x batch", "x batch batch_size"
TYPED = "x type_vec=node_type"


def between(module, how, build, call="x"):
    return Case(module, how, lambda: Between(build()), call)


def alone(module, build, call="x"):
    return Case(module, "alone", build, call, "nothing")


batch_norm = partial(gnn.BatchNorm, 8)
instance_norm = partial(gnn.InstanceNorm, 8)
layer_norm = partial(gnn.LayerNorm, 8)
hetero_layer_norm = partial(gnn.HeteroLayerNorm, 8, 3)
diff_group_norm = partial(gnn.DiffGroupNorm, 8, 4)

CASES = [
    alone("BatchNorm", batch_norm),
    between("BatchNorm", "plain", batch_norm),
    between("BatchNorm", "affine False", lambda: batch_norm(affine=False)),
    between("BatchNorm", "track_running_stats False", lambda: batch_norm(track_running_stats=False)),
    between("BatchNorm", "allow_single_element", lambda: batch_norm(allow_single_element=True)),
    between("BatchNorm", "momentum None", lambda: batch_norm(momentum=None)),
    alone("InstanceNorm", instance_norm, GRAPH),
    between("InstanceNorm", "plain", instance_norm),
    between("InstanceNorm", "batch", instance_norm, GRAPH),
    between("InstanceNorm", "batch_size", instance_norm, SIZED),
    between("InstanceNorm", "affine", lambda: instance_norm(affine=True), GRAPH),
    between("InstanceNorm", "affine without batch", lambda: instance_norm(affine=True)),
    between("InstanceNorm", "track_running_stats", lambda: instance_norm(track_running_stats=True), GRAPH),
    between("InstanceNorm", "tracked without batch", lambda: instance_norm(track_running_stats=True)),
    alone("LayerNorm", layer_norm, GRAPH),
    between("LayerNorm", "plain", layer_norm),
    between("LayerNorm", "batch", layer_norm, GRAPH),
    between("LayerNorm", "batch_size", layer_norm, SIZED),
    between("LayerNorm", "affine False", lambda: layer_norm(affine=False), GRAPH),
    between("LayerNorm", "mode node", lambda: layer_norm(mode="node")),
    between("LayerNorm", "mode node batch", lambda: layer_norm(mode="node", affine=False), GRAPH),
    between("HeteroLayerNorm", "affine False", lambda: hetero_layer_norm(affine=False), TYPED),
    Case(
        "HeteroLayerNorm",
        "type_ptr",
        hetero_layer_norm,
        lambda g: {"x": g.x, "type_ptr": (g.node_type[None] < g.node_type.new_tensor([[0], [1], [2], [3]])).sum(1)},
        "nothing",
    ),
    alone("GraphNorm", partial(gnn.GraphNorm, 8)),
    between("GraphNorm", "plain", partial(gnn.GraphNorm, 8)),
    between("GraphNorm", "batch", partial(gnn.GraphNorm, 8), GRAPH),
    between("GraphNorm", "batch_size", partial(gnn.GraphNorm, 8), SIZED),
    between("GraphSizeNorm", "plain", gnn.GraphSizeNorm),
    between("GraphSizeNorm", "batch", gnn.GraphSizeNorm, GRAPH),
    between("GraphSizeNorm", "batch_size", gnn.GraphSizeNorm, SIZED),
    alone("PairNorm", gnn.PairNorm, GRAPH),
    between("PairNorm", "plain", gnn.PairNorm),
    between("PairNorm", "batch", gnn.PairNorm, GRAPH),
    between("PairNorm", "batch_size", gnn.PairNorm, SIZED),
    between("PairNorm", "scale_individually", lambda: gnn.PairNorm(2.0, scale_individually=True)),
    between("PairNorm", "scale_individually batch", lambda: gnn.PairNorm(scale_individually=True), GRAPH),
    between("MeanSubtractionNorm", "plain", gnn.MeanSubtractionNorm),
    between("MeanSubtractionNorm", "batch", gnn.MeanSubtractionNorm, GRAPH),
    between("MeanSubtractionNorm", "dim_size", gnn.MeanSubtractionNorm, "x batch dim_size=batch_size"),
    alone("MessageNorm", gnn.MessageNorm, "x msg=x"),
    between("MessageNorm", "plain", gnn.MessageNorm, "x msg=x"),
    between("MessageNorm", "learn_scale", lambda: gnn.MessageNorm(learn_scale=True), "x msg=x"),
    Case("MessageNorm", "p", gnn.MessageNorm, lambda g: {"x": g.x, "msg": g.x, "p": 1.0}, "nothing"),
    Case("DiffGroupNorm", "alone", diff_group_norm, "x"),
    between("DiffGroupNorm", "plain", diff_group_norm),
    between("DiffGroupNorm", "affine False", lambda: diff_group_norm(affine=False)),
    between("DiffGroupNorm", "without statistics", lambda: diff_group_norm(lamda=0.5, track_running_stats=False)),
]
