"""What was added to the modules of a compiled graph: hooks, masks, parametrizations, other modules in their place.

Calls of the graph have all of it. Analyses read tensors and functions, so they must not lose any of it without a word:
masks become part of the weights, hooks that only observe are left out, and the rest is refused.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from upscale_fx.compiled.comparison import largest_difference
from upscale_fx.compiled.inputs import SMALL
from upscale_fx.compiled.layers.computed import masked_name
from upscale_fx.compiled.layers.find import calls_by_owner
from upscale_fx.compiled.record import GraphRecord
from upscale_fx.compiled.undisturbed import in_mode, undisturbed
from upscale_fx.errors import EditedGraphError

M = TypeVar("M", bound=nn.Module)

_TABLES = (
    "_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks", "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called",
)  # fmt: skip
_HELD = (*_TABLES, "_is_full_backward_hook", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks of any kind on its calls or gradients."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def copy_additions(root: nn.Module, module: nn.Module) -> None:
    """Give a module that was made of ``root`` the very modules of that, with all that was added to them."""
    module.__dict__.update({key: root.__dict__[key] for key in _HELD if key in root.__dict__})


def check_additions(gm: nn.Module, record: GraphRecord) -> None:
    """Refuse a graph with additions that analyses would not see.

    Raises:
        EditedGraphError: names the module and the way out.
    """
    for path, module in gm.named_modules():
        hooks = module._forward_pre_hooks.values()
        if parametrize.is_parametrized(module) or any(isinstance(hook, WeightNorm | SpectralNorm) for hook in hooks):
            raise EditedGraphError(
                f"'{path}' of this graph has a parametrization (such as weight_norm), and graphs are analysed as they "
                f"were without: make it permanent first, with torch.nn.utils.parametrize.remove_parametrizations() or "
                f"torch.nn.utils.remove_weight_norm()"
            )
    _check_layers(gm)
    others = [path for path, module in gm.named_modules() if _has_hooks_beside_masks(module)]
    if others and _hooks_change_values(gm, record):
        raise EditedGraphError(
            f"hooks on modules of this graph ({', '.join(path or 'the graph itself' for path in others[:4])}) change "
            f"what it computes, and graphs are analysed without hooks: remove them, or register them on the model "
            f"before it is traced, since they become part of the graph then"
        )


def _check_layers(gm: nn.Module) -> None:
    graph: Any = gm.graph
    for path, call in calls_by_owner(graph).items():
        module = gm.get_submodule(path)
        own = {name for name, value in module._parameters.items() if value is not None}
        masked = {name for hook in module._forward_pre_hooks.values() if (name := masked_name(hook))}
        own = (own | masked) - {f"{name}_orig" for name in masked}
        if _is_layer(module) and (type(module) is not call.module or own != call.tensors):
            raise EditedGraphError(
                f"'{path}' of this graph was replaced by {type(module).__module__}.{type(module).__name__}, and graphs "
                f"are analysed as they were with its {call.module.__name__}. It can be called, trained, copied and "
                f"saved as it is; prune, fuse and report a graph before layers of it are replaced or quantised"
            )


def _is_layer(module: nn.Module) -> bool:
    """Whether the graph calls this module; parts, whose classes import this package, cannot be called."""
    return not hasattr(module, "graph_place")


def _has_hooks_beside_masks(module: nn.Module) -> bool:
    before = [hook for hook in module._forward_pre_hooks.values() if masked_name(hook) is None]
    return bool(before or module._forward_hooks)


def _hooks_change_values(gm: nn.Module, record: GraphRecord) -> bool:
    """Whether hooks change what a graph computes for an example."""
    arguments = dict(record.inputs.example(SMALL))
    with in_mode(gm, training=False), torch.no_grad(), undisturbed(gm):
        try:
            hooked = gm(**arguments)
        except Exception:
            return True
        with _without_observers(gm):
            return largest_difference(hooked, gm(**arguments)) != 0


@contextmanager
def _without_observers(gm: nn.Module) -> Iterator[None]:
    """Within the block, modules have no hooks but masks."""
    held = [(module.__dict__, name, module.__dict__[name]) for module in gm.modules() for name in _TABLES]
    try:
        for space, name, table in held:
            space[name] = _masks(name, table)
        yield
    finally:
        for space, name, table in held:
            space[name] = table


def _masks(name: str, table: Any) -> OrderedDict[int, Any]:
    hooks = table.items() if name == "_forward_pre_hooks" else ()
    return OrderedDict((key, hook) for key, hook in hooks if masked_name(hook) is not None)


def without_additions(gm: M) -> M:
    """Return a graph without hooks, whose masks are part of its weights: the graph itself if it has neither."""
    if not any(map(has_hooks, gm.modules())):
        return gm
    memo: dict[int, Any] = {}
    for module in gm.modules():
        memo.update({id(table): _masks(name, table) for name in _TABLES if (table := module.__dict__[name])})
    copied = copy.deepcopy(gm, memo)
    for module in copied.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if (name := masked_name(hook)) is not None:
                prune.remove(module, name)  # type: ignore[no-untyped-call]
    return copied
