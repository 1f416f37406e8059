"""Deep copies of the fields of a graph's module."""

from __future__ import annotations

import copy
import operator
from collections import OrderedDict
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx, nn

from upscale_fx.compiled.guards.listed_nodes import missing_target
from upscale_fx.compiled.parts import Part


def copied_fields(module: nn.Module, memo: dict[int, Any], derived: Collection[str]) -> dict[str, Any]:
    """Return deep copies of all fields of a module but ``derived`` ones; containers of parameters are copied faster.

    Computed tensors that modules hold, such as masked weights, are copied as values: torch would refuse them.
    """
    for part in module.modules():
        computed = [value for value in part.__dict__.values() if isinstance(value, Tensor) and not value.is_leaf]
        memo.update({id(value): value.detach() for value in computed})
    return _fields(module, memo, derived)


def targets_of(root: nn.Module, graph: fx.Graph) -> nn.Module | dict[str, Any]:
    """Return what a graph reads of a module, for a new module of that graph: the module itself, if it has it all.

    A layer that was replaced by hand lacks tensors that the graph still names. Something stands in their places until
    the new module gets the layers of the old one.
    """
    targets = dict.fromkeys(str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module"))
    if missing_target(root, list(targets)) is None:
        return root
    present = {target: missing_target(root, [target]) is None for target in targets}
    return {t: operator.attrgetter(t)(root) if there else torch.empty(0) for t, there in present.items()}


def _fields(module: nn.Module, memo: dict[int, Any], derived: Collection[str] = ()) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in module.__dict__.items():
        if key == "_modules":
            fields[key] = type(value)((name, _container(part, memo)) for name, part in value.items())
        elif key not in derived:
            empty = type(value) in (dict, set, OrderedDict) and not value
            fields[key] = type(value)() if empty else copy.deepcopy(value, memo)
    return fields


def _container(module: Any, memo: dict[int, Any]) -> Any:
    if type(module) not in (nn.Module, Part) or id(module) in memo:
        return copy.deepcopy(module, memo)
    new = memo[id(module)] = nn.Module.__new__(type(module))
    new.__dict__.update(_fields(module, memo))
    return new
