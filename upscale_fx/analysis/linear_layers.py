"""Recognise calls of linear layers, with positional or keyword arguments."""

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
    """Return a node as a linear layer of ``[N, I]`` values; None for everything else."""
    if not isinstance(node, fx.Node) or node.target is not F.linear or node not in flow.axes:
        return None
    arguments = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | node.kwargs
    x, weight, bias = arguments.get("input"), arguments.get("weight"), arguments.get("bias")
    if not isinstance(x, fx.Node) or not isinstance(weight, fx.Node) or len(flow.axes[node].sizes) != 2:
        return None
    return Layer(x, weight, bias if isinstance(bias, fx.Node) else None)
