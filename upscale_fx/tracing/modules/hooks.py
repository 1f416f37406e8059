"""Forward hooks in traces: those that only observe are removed, those that change values are traced."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from upscale_fx.compiled.comparison import largest_difference


def has_hooks(module: nn.Module) -> bool:
    """Whether calls of a module run forward hooks or forward pre-hooks."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def drop_observers(root: nn.Module, run: Callable[[], Any]) -> None:
    """Remove forward hooks and pre-hooks that only observe, so that they never see proxies.

    A hook observes if it returns nothing new, changes no tensor in place and sets no tensor of its module.

    Args:
        root: the copy of the model that is traced.
        run: runs it on an example graph.
    """
    tables = [table for module in root.modules() for table in (module._forward_hooks, module._forward_pre_hooks)]
    held = [(table, dict(table)) for table in tables if table]
    if not held:
        return
    changing: set[int] = set()
    try:
        for table, hooks in held:
            table.update({key: _watched(hook, key, changing) for key, hook in hooks.items()})
        with_hooks = run()
        _keep(held, changing)
        if largest_difference(with_hooks, run()) == 0:
            return
    except Exception:  # the model needs what its hooks do
        pass
    _keep(held, {key for _, hooks in held for key in hooks})


def _keep(held: list[tuple[dict[int, Any], dict[int, Any]]], keys: set[int]) -> None:
    for table, hooks in held:
        table.clear()
        table.update({key: hook for key, hook in hooks.items() if key in keys})


def _watched(hook: Callable[..., Any], key: int, changing: set[int]) -> Callable[..., Any]:
    """Return a hook that does the same, and adds its key to ``changing`` if it does more than observe."""

    def call(module: nn.Module, *args: Any) -> Any:
        before = _tensors(module, args)
        result = hook(module, *args)
        is_new = result is not None and not any(result is argument for argument in args)
        if is_new or before != _tensors(module, args):
            changing.add(key)
        return result

    return call


def _tensors(module: nn.Module, args: Any) -> list[tuple[int, int]]:
    """Return identity and version of the tensors that a hook gets and that its module holds."""
    held = (*module._parameters.values(), *module._buffers.values(), *module.__dict__.values())
    found = [leaf for leaf in (*pytree.tree_leaves(args), *held) if isinstance(leaf, Tensor)]
    return [(id(leaf), -1 if leaf.is_inference() else leaf._version) for leaf in found]


#: The name under which a module holds its own forward() while another one stands in its place.
_OWN = "_upscale_fx_forward"


def call_with_hooks(
    module: nn.Module, forward: Callable[..., Any] | None, call: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """Call a module with its hooks.

    Args:
        module: the module.
        forward: what runs in place of its own ``forward``; None for that itself.
        call: the module's call, which runs hooks around ``module.forward``.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    if forward is None:
        return call(module, *args, **kwargs)
    if not has_hooks(module):
        return forward(*args, **kwargs)
    held = module.__dict__.get("forward")
    module.__dict__.update({_OWN: module.forward, "forward": forward})
    try:
        return call(module, *args, **kwargs)
    finally:
        del module.__dict__[_OWN], module.__dict__["forward"]
        if held is not None:
            module.__dict__["forward"] = held


def compute(
    root: nn.Module,
    in_eval: Callable[[nn.Module], AbstractContextManager[None]],
    kind: str,
    target: Any,
    args: Any,
    kwargs: Any,
) -> Any:
    """Return the result of a call on an example graph; modules are called without hooks, which are traced.

    Args:
        root: the model.
        in_eval: puts a module of it into ``eval()`` for the length of a block.
        kind: the kind (``op``) of the call's node.
        target: its target.
        args: positional arguments on the example graph.
        kwargs: keyword arguments.
    """
    if kind == "call_function":
        return target(*args, **kwargs)
    if kind == "call_method":
        return getattr(args[0], target)(*args[1:], **kwargs)
    module = root.get_submodule(target)
    with in_eval(module):  # batch norm must accept one row and keep its statistics
        return module.__dict__.get(_OWN, module.forward)(*args, **kwargs)


def without_traced_hooks(traced: nn.Module) -> None:
    """Replace the layers of a graph that have hooks by copies without them: the graph does what the hooks do."""
    for path, module in list(traced.named_modules()):
        if path and has_hooks(module):
            bare = copy.copy(module)
            bare._forward_hooks, bare._forward_pre_hooks = OrderedDict(), OrderedDict()
            owner, _, name = path.rpartition(".")
            traced.get_submodule(owner)._modules[name] = bare
