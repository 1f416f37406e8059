"""Calls of linear layers, however they are written."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx
from torch.nn import functional as F

from upscale_fx.analysis.dataflow import Dataflow


@dataclass(frozen=True)
class Layer:
    """A call of a linear layer with a weight ``[O, I]``."""

    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None


def layer_of(flow: Dataflow, node: object) -> Layer | None:
    """A node as a linear layer of ``[N, I]`` values."""
    if not isinstance(node, fx.Node) or node.target is not F.linear or node not in flow.axes:
        return None
    given = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | node.kwargs
    x, weight, bias = given.get("input"), given.get("weight"), given.get("bias")
    if not isinstance(x, fx.Node) or not isinstance(weight, fx.Node) or len(flow.axes[node].sizes) != 2:
        return None
    return Layer(x, weight, bias if isinstance(bias, fx.Node) else None)
