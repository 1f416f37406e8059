"""Fold batch norms into the layers beside them: in ``eval()`` a batch norm is ``scale * y + shift`` per channel.

A batch norm with running statistics is folded iff (1) its producer can take the scale and the shift (see
``analysis.affine``): a linear layer, through additions, gathers and aggregations; or (2) only linear layers read its
result: ``W (scale * x + shift) + b = (W scale) x + (b + W shift)``. Every parameter that changes must be read by that
call alone. Other batch norms stay, such as one between an activation and message passing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult
from torch.nn.modules.batchnorm import _BatchNorm

from upscale_fx.analysis.affine import Affine, Changes, taken_by, taken_by_readers
from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.analysis.own_parameters import add_bias, put
from upscale_fx.channels.relations import Contraction, Pointwise
from upscale_fx.compacting.rewrite.origins import note_folded
from upscale_fx.compiled.module import CompiledGNN, note
from upscale_fx.compiled.record import EVAL_ONLY_INFERENCE
from upscale_fx.passes.base import edited


@dataclass(frozen=True)
class FoldBatchNorm:
    """Fold batch norms into weights and biases; the result is for ``eval()`` only and cannot be trained."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited(gm, fold_batch_norms)


def fold_batch_norms(gm: CompiledGNN) -> int:
    """Fold all batch norms that can be; returns how many."""
    count = 0
    while folded := _fold_once(gm):  # two batch norms that change one layer are folded one after the other
        count += folded
        note(gm, eval_only=EVAL_ONLY_INFERENCE)
    return count


def _fold_once(gm: CompiledGNN) -> int:
    """Fold batch norms, at most one for each parameter that changes; returns how many."""
    flow = analyse(gm)
    folds: list[tuple[fx.Node, Changes]] = []
    taken: set[fx.Node] = set()
    for node in flow.nodes:
        relation, affine = flow.relations.get(node), affine_of(flow, node)
        if affine is None or not isinstance(relation, Pointwise):
            continue
        changes = taken_by(flow, relation.flows[0].source, node, affine)
        changes = taken_by_readers(flow, node, affine) if changes is None else changes
        if changes is not None and not taken & changes.keys():
            taken |= changes.keys()
            folds.append((node, changes))
    for node, changes in folds:
        for where, value in changes.items():
            change(gm, flow, where, value)
        node.replace_all_uses_with(node.all_input_nodes[0])
        gm.graph.erase_node(node)
    return len(folds)


def affine_of(flow: Dataflow, node: fx.Node) -> Affine | None:
    """Scale and shift of a batch norm in ``eval()``; None for other nodes, and without running statistics."""
    relation = flow.relations.get(node)
    module = flow.module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if not isinstance(module, _BatchNorm) or type(module).forward is not _BatchNorm.forward:
        return None
    if module._forward_hooks or module._forward_pre_hooks or not isinstance(relation, Pointwise):
        return None
    mean, variance = module._buffers["running_mean"], module._buffers["running_var"]
    if mean is None or variance is None:
        return None
    weight, bias = module._parameters["weight"], module._parameters["bias"]
    scale = (variance.double() + module.eps).rsqrt()
    scale = scale if weight is None else scale * weight.detach().double()
    shift = -mean.double() * scale
    shift = shift if bias is None else shift + bias.detach().double()
    if not (scale.isfinite().all() and shift.isfinite().all()):
        return None
    shape = flow.axes[node].shape
    channels = [-1, *[1] * (len(shape) - 2)]
    numbers = (np.broadcast_to(value.cpu().numpy().reshape(channels), shape).reshape(-1) for value in (scale, shift))
    return Affine(*numbers)


def change(gm: CompiledGNN, flow: Dataflow, where: fx.Node, value: Tensor) -> None:
    """Put a parameter in place of another, or a bias where a contraction has none."""
    if where.op == "get_attr":
        put(gm, str(where.target), value)
        note_folded(gm, str(where.target))
        return
    relation = flow.relations[where]
    assert isinstance(relation, Contraction)
    add_bias(gm, where, relation, value)
