"""Take a user's model without changing it: check it, copy it, and drop caches that hold for one graph only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch_geometric.nn.models.rev_gnn import InvertibleModule

from upscale_fx.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])


def trainable(function: F) -> F:
    """Run a function outside ``torch.inference_mode()``, since parameters made inside it can never be trained."""
    return torch.inference_mode(mode=False)(function)


def check_model(model: object) -> None:
    """Raise an InputError unless it is a module."""
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("a TorchScript module cannot be traced; pass the model it was made from")
    for wrapper in ("_orig_mod", "module"):
        if type(model).__name__ in ("OptimizedModule", "DataParallel", "DistributedDataParallel") and hasattr(
            model, wrapper
        ):
            raise InputError(f"expected the model itself, got {type(model).__name__}(model): pass model.{wrapper}")
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module, got {model!r}" if isinstance(model, type) else
                         f"expected a torch.nn.Module, got a {type(model).__name__}")  # fmt: skip


#: Modules of torch whose layers hold packed integers.
_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


def own_copy(model: nn.Module) -> nn.Module:
    """Return a deep copy of the model, with re-parametrisations of torch.nn.utils.prune made permanent.

    Raises:
        InputError: a lazy module has not seen data yet, a layer is quantised, or the model cannot be copied.
    """
    for path, part in model.named_modules():
        if type(part).__module__.startswith(_QUANTISED):
            raise InputError(
                f"'{path}' ({type(part).__name__} of {type(part).__module__.rpartition('.')[0]}) is quantised: its "
                f"weights are packed integers without channels to remove. Prune the model first, and quantise what "
                f"compact() or prune() returns"
            )
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(parameter):
            raise InputError(
                f"'{name}' has no shape yet (a lazy layer, in_channels=-1): run the model once on real inputs first"
            )
    try:
        root = _deep_copy(model)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"{type(model).__name__} cannot be copied ({error}), and upscale_fx works on a copy; keep objects that "
            f"cannot be copied out of its attributes"
        ) from error
    for old, module in zip(model.modules(), root.modules(), strict=True):
        _uncompile_forward(old, module)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
    return root


def _uncompile_forward(old: nn.Module, new: nn.Module) -> None:
    """Undo ``model.forward = torch.compile(model.forward)`` in a copy: the compiled function still calls ``old``."""
    compiled = new.__dict__.get("forward")
    method = getattr(compiled, "_torchdynamo_orig_callable", None)
    if isinstance(method, MethodType) and method.__self__ is old:
        new.__dict__["forward"] = MethodType(method.__func__, new)


def without_caches(root: nn.Module) -> nn.Module:
    """Empty PyG's caches and switch them off, because they hold results for one input graph only."""
    empty_caches(root)
    for module in root.modules():
        if isinstance(getattr(module, "cached", None), bool):
            module.cached = False  # type: ignore[assignment]
        if isinstance(module, InvertibleModule):  # its autograd function saves memory; without it, values are the same
            module.disable = True
    return root


#: Attributes in which PyG's layers keep results for one input graph.
_CACHES = ("_cached_edge_index", "_cached_adj_t", "_cached_x", "_cached_h")


def empty_caches(root: nn.Module) -> None:
    """Empty PyG's caches; the next call fills them again."""
    for module in root.modules():
        for cache in _CACHES:
            if module.__dict__.get(cache) is not None:
                setattr(module, cache, None)


@contextmanager
def uncached(root: nn.Module) -> Iterator[None]:
    """Within the block, PyG's layers compute everything anew for every input; afterwards caches are as they were."""
    names = ("cached", *_CACHES)
    held = [(m.__dict__, n, m.__dict__[n]) for m in root.modules() for n in names if n in m.__dict__]
    try:
        for space, name, value in held:
            if name != "cached":
                space[name] = None
            elif isinstance(value, bool):
                space[name] = False
        yield
    finally:
        for space, name, value in held:
            space[name] = value


def _deep_copy(model: nn.Module) -> nn.Module:
    """Deep copy a model, with computed tensors in its modules (activations, masked weights) detached."""
    computed = [
        (module.__dict__, name, value)
        for module in model.modules()
        for name, value in module.__dict__.items()
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    try:
        for space, name, value in computed:
            space[name] = value.detach()
        return copy.deepcopy(model)
    finally:
        for space, name, value in computed:
            space[name] = value
