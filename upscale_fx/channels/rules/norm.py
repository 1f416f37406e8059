"""Rules for batch norm and instance norm, which treat each channel by itself; their parameters follow the layout."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from upscale_fx.channels.positions import Flow, Mask
from upscale_fx.channels.relations import Pointwise, Relation
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.channels.rules.registry import register


@register(_BatchNorm)
def batch_norm_module(op: Operation) -> Relation | None:
    """``BatchNorm(x [N, C, ..])``: channel ``c`` to channel ``c``; zero where scale and shift are zero.

    Statistics are over rows and over the static axes after axis 1, which are kept whole.
    """
    flow = op.aligned(op.tensors[0])
    if flow is None or not isinstance(op.module, nn.Module) or op.axes.shape[0] > 1:
        return None
    return Pointwise((flow,), "never", str(op.call.target), _scaled_to_zero(op, op.module))


def _is_per_channel(op: Operation) -> bool:
    """Whether statistics over all axes but axis 1 mix only rows, no channels."""
    return set(op.axes.wide) <= {1}


def _scaled_to_zero(op: Operation, module: nn.Module) -> Mask | None:
    weight, bias = module.weight, module.bias
    if not isinstance(weight, torch.Tensor) or not isinstance(bias, torch.Tensor):
        return None
    zero = ((weight == 0) & (bias == 0)).detach().cpu().numpy()
    shape = [1] * len(op.axes.shape)
    shape[1] = len(zero)
    return np.broadcast_to(zero.reshape(shape), op.axes.shape).reshape(-1)


@register(F.batch_norm, F.instance_norm, torch.instance_norm)
def batch_norm_function(op: Operation) -> Relation | None:
    """``batch_norm(x [N, C, ..], mean [C], var [C], weight [C], bias [C])``."""
    x = op.argument(0, "input")
    flows: list[Flow | None] = [op.aligned(x)]
    flows += [op.aligned(node, (1,)) for node in op.tensors if node is not x]
    if any(flow is None for flow in flows) or not _is_per_channel(op):
        return None
    return Pointwise(tuple(flows), "never")  # type: ignore[arg-type]
