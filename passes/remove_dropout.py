"""Remove dropout: in ``eval()`` it returns what it is given.

A call is removed iff it is (1) of a dropout module, whatever its rate; or (2) of a dropout function whose ``training``
is false there, or whose rate is 0. A function told to drop in ``eval()`` too (``F.dropout(x)``, Monte Carlo dropout)
stays.
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
#: Functions with what ``training`` is where it is not given.
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
    """Remove dropout in place; returns how many calls went."""
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
    given = dict(zip(("input", "p", "training"), node.args, strict=False)) | node.kwargs
    training = given.get("training", given.get("train", _FUNCTIONS[target]))
    rate: Any = given.get("p", 0.5)
    return rate in (0, 0.0) or _in_eval(gm, training) is False


def _in_eval(gm: CompiledGNN, value: Any) -> Any:
    """A constant argument, as it is in ``eval()``."""
    if not isinstance(value, fx.Node) or value.op != "call_module":
        return value
    module = gm.get_submodule(str(value.target))
    return module.in_eval if isinstance(module, ByMode) else value
