"""Remove dropout: in ``eval()`` it returns its operand.

A call is removed iff it calls (1) a dropout module, at any rate; or (2) a dropout function whose ``training`` is false
in ``eval()``, or whose rate is 0. A function that drops in ``eval()`` too stays (``F.dropout(x)``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.infra.pass_base import PassResult
from torch.nn import functional as F

from upscale_fx.compiled.functions import ByMode
from upscale_fx.compiled.module import CompiledGNN, note
from upscale_fx.compiled.record import EVAL_ONLY_INFERENCE
from upscale_fx.passes.base import edited

_MODULES = {nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout}
#: Dropout functions, with the default of their argument ``training``.
_FUNCTIONS: dict[Any, bool] = {
    F.dropout: True,
    F.dropout1d: True,
    F.dropout2d: True,
    F.dropout3d: True,
    F.alpha_dropout: False,
    F.feature_alpha_dropout: False,
    torch.dropout: True,
    torch.feature_dropout: True,
    torch.alpha_dropout: True,
    torch.feature_alpha_dropout: True,
}


@dataclass(frozen=True)
class RemoveDropout:
    """Remove dropout; the result is for ``eval()`` only and cannot be trained."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited(gm, remove_dropout)


def remove_dropout(gm: CompiledGNN) -> int:
    """Remove dropout in place; returns how many calls were removed."""
    idle = [node for node in gm.graph.nodes if does_nothing(gm, node)]
    for node in idle:
        node.replace_all_uses_with(node.args[0] if node.args else node.kwargs["input"])
        gm.graph.erase_node(node)
    if idle:
        note(gm, eval_only=EVAL_ONLY_INFERENCE)
    return len(idle)


def does_nothing(gm: CompiledGNN, node: fx.Node) -> bool:
    """Whether a node is dropout and returns its operand in ``eval()``."""
    if node.op == "call_module":
        module = gm.get_submodule(str(node.target))
        hooks = (*module._forward_hooks, *module._forward_pre_hooks)
        return type(module) in _MODULES and not hooks
    target: Any = node.target
    if target not in _FUNCTIONS:
        return False
    arguments = dict(zip(("input", "p", "training"), node.args, strict=False)) | node.kwargs
    training = arguments.get("training", arguments.get("train", _FUNCTIONS[target]))
    rate: Any = arguments.get("p", 0.5)
    return rate in (0, 0.0) or _in_eval(gm, training) is False


def _in_eval(gm: CompiledGNN, value: Any) -> Any:
    """The value of an argument in ``eval()``."""
    if not isinstance(value, fx.Node) or value.op != "call_module":
        return value
    module = gm.get_submodule(str(value.target))
    return module.in_eval if isinstance(module, ByMode) else value
